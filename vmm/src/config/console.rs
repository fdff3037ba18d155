//! The paravirtual console as one of a guest's devices. Where its bytes go is a [`SerialSpec`].

use devices::pci::{Segment, Slot};

use super::SerialSpec;
use super::device::DeviceId;

/// A paravirtual console for the guest. No client can name it, so that it stays as long as the VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleSpec {
    /// The machine's name of it, once it has one.
    pub id: Option<DeviceId>,
    /// On which of the guest's segments: the first.
    pub segment: Segment,
    /// Where on it: any slot.
    pub slot: Option<Slot>,
}

impl ConsoleSpec {
    /// The device of a console that goes to `spec`, unless it is off.
    pub(super) fn of(spec: &SerialSpec) -> Option<Self> {
        (*spec != SerialSpec::Off).then(Self::default)
    }
}
