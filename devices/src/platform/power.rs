//! Power off and reset: the sleep control, sleep status and reset registers of
//! a hardware-reduced ACPI platform (ACPI 6.5, 4.8.3.6 and 4.8.3.7), one byte each.

use std::sync::Arc;

use crate::io::Access;

/// Offset of the sleep control register.
pub const SLEEP_CONTROL: u64 = 0;
/// Offset of the sleep status register. Always 0: this machine never sleeps.
pub const SLEEP_STATUS: u64 = 1;
/// Offset of the reset register.
pub const RESET: u64 = 2;

/// What the guest writes to [`RESET`]; other values mean nothing.
pub const RESET_VALUE: u8 = 1;
/// The only SLP_TYP there is: S5, off. The DSDT's `_S5` repeats it.
pub const SLEEP_TYPE_OFF: u8 = 5;

/// SLP_EN: enter the state of SLP_TYP now.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;

/// What the guest asks the machine to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Switch off.
    Off,
    /// Start again from the beginning.
    Reset,
}

/// Who carries out a [`PowerEvent`]. Called on a vCPU thread, which goes on
/// running the guest afterwards: post it and return. A guest may repeat itself.
pub trait Events: Send + Sync {
    /// Passes `event` on.
    fn post(&self, event: PowerEvent);
}

/// The three registers.
pub struct Power {
    events: Arc<dyn Events>,
}

impl Power {
    /// Registers that report to `events`.
    pub fn new(events: Arc<dyn Events>) -> Self {
        Self { events }
    }
}

impl Access for Power {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        for (at, byte) in (offset..=u64::MAX).zip(data) {
            if matches!(at, SLEEP_CONTROL | SLEEP_STATUS | RESET) {
                *byte = 0;
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let events = (offset..=u64::MAX).zip(data).filter_map(|(at, byte)| requested(at, *byte));
        for event in events {
            log::info!("the guest writes a power register: {event:?}");
            self.events.post(event);
        }
    }
}

/// What storing `value` at `offset` asks for.
fn requested(offset: u64, value: u8) -> Option<PowerEvent> {
    let sleep_type = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
    match offset {
        SLEEP_CONTROL if value & SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_OFF => {
            Some(PowerEvent::Off)
        }
        RESET if value == RESET_VALUE => Some(PowerEvent::Reset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<PowerEvent>>);

    impl Events for Seen {
        fn post(&self, event: PowerEvent) {
            self.0.lock().unwrap().push(event);
        }
    }

    /// What each of the writes, in order, made the machine do.
    fn after(writes: &[(u64, &[u8])]) -> Vec<PowerEvent> {
        let seen = Arc::new(Seen::default());
        let power = Power::new(Arc::clone(&seen) as Arc<dyn Events>);
        writes.iter().for_each(|(offset, data)| power.write(*offset, data));
        seen.0.lock().unwrap().clone()
    }

    #[test]
    fn sleep_type_five_with_enable_powers_off() {
        assert_eq!(after(&[(SLEEP_CONTROL, &[0x34])]), [PowerEvent::Off]);
    }

    #[test]
    fn nothing_happens_without_enable_or_for_another_state() {
        assert_eq!(after(&[(SLEEP_CONTROL, &[0x14]), (SLEEP_CONTROL, &[0x2c])]), []);
    }

    #[test]
    fn linux_clears_the_wake_status_first_and_that_is_harmless() {
        let writes: &[(u64, &[u8])] = &[(SLEEP_STATUS, &[0x80]), (SLEEP_CONTROL, &[0x34])];
        assert_eq!(after(writes), [PowerEvent::Off]);
    }

    #[test]
    fn the_reset_value_resets_and_no_other() {
        assert_eq!(after(&[(RESET, &[0]), (RESET, &[0xfe]), (RESET, &[1])]), [PowerEvent::Reset]);
    }

    #[test]
    fn odd_sizes_and_offsets_change_nothing() {
        assert_eq!(after(&[(3, &[1]), (u64::MAX, &[1, 0x34]), (0, &[]), (9, &[0x34; 8])]), []);
    }

    #[test]
    fn registers_read_as_zero_and_beyond_them_is_nothing() {
        let mut data = [0x55; 4];
        Power::new(Arc::new(Seen::default())).read(1, &mut data);
        assert_eq!(data, [0, 0, 0xff, 0xff]);
    }
}
