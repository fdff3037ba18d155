//! The power button: one register of one byte, by which the machine tells the guest
//! that somebody has pressed it (ACPI 6.5, 4.8.3.1: a control method power button).
//!
//! ```text
//! bit 0  pressed, and not noticed yet      write 1 to take it
//! ```
//!
//! The guest's interrupt is an edge, and an edge is lost on a guest that has not set
//! up the line yet: [`Button::remind`] raises it again.

use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::io::Access;

/// Pressed, and not noticed yet.
pub const PRESSED: u8 = 1 << 0;

/// The register, shared by the event loop and the vCPUs.
pub struct Button {
    pressed: AtomicBool,
    /// Makes the guest look.
    interrupt: EventFd,
}

impl Button {
    /// A button that nobody has pressed. Writing `interrupt` must raise the Generic
    /// Event Device's line in the guest.
    pub fn new(interrupt: EventFd) -> Self {
        Self { pressed: AtomicBool::new(false), interrupt }
    }

    /// Presses it. Once more before the guest has noticed changes nothing.
    pub fn press(&self) {
        self.pressed.store(true, Ordering::SeqCst);
        self.raise();
    }

    /// Makes the guest look again if it has not noticed yet; returns whether it had not.
    pub fn remind(&self) -> bool {
        let pressed = self.pressed.load(Ordering::SeqCst);
        if pressed {
            self.raise();
        }
        pressed
    }

    /// As after power-on.
    pub fn reset(&self) {
        self.pressed.store(false, Ordering::SeqCst);
    }

    fn raise(&self) {
        // Fails only because its count is full, and then its reader wakes up anyway.
        let _ = self.interrupt.write(1);
    }
}

impl Access for Button {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, Some(register)) = (offset, data.first_mut()) {
            *register = if self.pressed.load(Ordering::SeqCst) { PRESSED } else { 0 };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == 0 && data.first().is_some_and(|value| value & PRESSED != 0) {
            self.pressed.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    /// A button, and the guest's interrupt line.
    fn button() -> (Button, EventFd) {
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        (Button::new(line.try_clone().unwrap()), line)
    }

    fn register(button: &Button) -> u8 {
        let mut data = [0x55];
        button.read(0, &mut data);
        data[0]
    }

    #[test]
    fn press_raises_the_line_and_is_seen_until_it_is_taken() {
        let (button, line) = button();
        assert_eq!((register(&button), line.read().is_err()), (0, true));

        button.press();
        assert_eq!((register(&button), line.read().unwrap()), (PRESSED, 1));

        button.write(0, &[PRESSED]);
        assert_eq!(register(&button), 0);
    }

    #[test]
    fn guest_is_reminded_until_it_has_noticed() {
        let (button, line) = button();
        button.press();
        line.read().unwrap();

        assert!(button.remind());
        assert_eq!(line.read().unwrap(), 1);
        button.write(0, &[PRESSED]);
        assert!(!button.remind());
        assert!(line.read().is_err());
    }

    #[test]
    fn reset_forgets_a_press() {
        let (button, _line) = button();
        button.press();

        button.reset();

        assert_eq!(register(&button), 0);
    }

    #[test]
    fn odd_sizes_offsets_and_values_change_nothing() {
        let (button, _line) = button();
        button.press();
        let writes: [(u64, &[u8]); 4] = [(0, &[]), (0, &[0xfe]), (1, &[1]), (u64::MAX, &[1, 1])];
        for (offset, data) in writes {
            button.write(offset, data);
        }
        let mut beyond = [0; 2];
        button.read(u64::MAX, &mut beyond);

        assert_eq!((register(&button), beyond), (PRESSED, [0xff; 2]));
    }
}
