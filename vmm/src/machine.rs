//! What a running machine is made of: a parts list, with hardly any behaviour and
//! without a lock. Only the event loop's thread has one, until a worker takes it apart.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use devices::console::Console;
use devices::legacy::serial::Uart;
use devices::platform::button::Button;
use devices::space::Claim;
use kvm_ioctls::VmFd;

use crate::acpi;
use crate::boot::Payload;
use crate::hotplug::Bay;
use crate::kvm::Irqchips;
use crate::memory::ram::Ram;
use crate::vcpu::{Spaces, Vcpus};
use crate::warming::Warming;

/// A machine. Field order is teardown order: first nothing runs any more, then
/// what the guest could reach goes, then its memory, then the VM itself.
pub struct Machine {
    pub(crate) vcpus: Vcpus,
    pub(crate) bay: Bay,
    pub(crate) _claims: Vec<Claim>,
    pub(crate) serial: Option<Serial>,
    /// The host's half of the paravirtual console, whose other one is in the bay.
    pub(crate) console: Option<Console>,
    pub(crate) button: Arc<Button>,
    pub(crate) _spaces: Spaces,
    pub(crate) warming: Warming,
    pub(crate) ram: Ram,
    pub(crate) fresh_chips: Irqchips,
    pub(crate) vm: Arc<VmFd>,
    pub(crate) payload: Payload,
    pub(crate) tables: acpi::Inputs,
}

impl Machine {
    /// Descriptors that the event loop watches.
    pub(crate) fn watched(&self) -> impl Iterator<Item = RawFd> {
        let serial = self.serial.as_ref().map(|serial| serial.console.as_raw_fd());
        let console = self.console.as_ref().map(AsRawFd::as_raw_fd);
        serial.into_iter().chain(console).chain(self.bay.watched())
    }

    /// Serves those who type and read at the guest's ports.
    pub(crate) fn serve_consoles(&mut self) {
        let serial = self.serial.as_mut().map(|serial| &mut serial.console);
        serial.into_iter().chain(&mut self.console).for_each(Console::ready);
    }
}

/// Both halves of the serial port.
pub(crate) struct Serial {
    pub(crate) console: Console,
    pub(crate) uart: Arc<Uart>,
}
