//! The one use left for a keyboard controller: pulsing the reset line
//! (command 0xfe at port 0x64), which Linux tries when ACPI did not reset.
//! Nothing else is emulated, and the FADT denies that there is one.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::{I8042Device, Trigger};

use crate::io::Access;
use crate::platform::power::{Events, PowerEvent};

/// First port: data.
pub const FIRST_PORT: u64 = 0x60;
/// Ports up to the command register. They include 0x61, where "no errors, no
/// speaker" is the right thing for a guest to read after an NMI.
pub const PORTS: u64 = 5;

/// A keyboard controller that only resets.
pub struct I8042 {
    device: Mutex<I8042Device<Reset>>,
}

struct Reset(Arc<dyn Events>);

impl Trigger for Reset {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        log::info!("the guest pulls the keyboard controller's reset line");
        self.0.post(PowerEvent::Reset);
        Ok(())
    }
}

impl I8042 {
    /// A controller that reports to `events`.
    pub fn new(events: Arc<dyn Events>) -> Self {
        Self { device: Mutex::new(I8042Device::new(Reset(events))) }
    }
}

impl Access for I8042 {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(offset), &[command]) = (u8::try_from(offset), data) {
            let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(()) = device.write(offset, command);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Resets(AtomicU32);

    impl Events for Resets {
        fn post(&self, event: PowerEvent) {
            assert_eq!(event, PowerEvent::Reset);
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_the_pulse_command_resets() {
        let resets = Arc::new(Resets::default());
        let device = I8042::new(Arc::clone(&resets) as Arc<dyn Events>);
        device.write(4, &[0xaa]);
        device.write(0, &[0xfe]);
        device.write(4, &[0xfe, 0xfe]);
        device.write(260, &[0xfe]);
        assert_eq!(resets.0.load(Ordering::SeqCst), 0);
        device.write(4, &[0xfe]);
        assert_eq!(resets.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn status_says_that_nothing_waits() {
        let mut data = [0xff; 2];
        I8042::new(Arc::new(Resets::default())).read(4, &mut data);
        assert_eq!(data, [0, 0]);
    }
}
