//! What a vCPU's thread does: waits at the gate, runs the guest, answers exits.

use std::sync::Arc;

use kvm_ioctls::VcpuFd;

use super::Shared;
use super::gate::{Held, Left, Start};
use super::nmi::Nmi;
use crate::arch::x86_64::reset::Fresh;
use crate::events::Event;
use crate::kvm::exit::{self, Exit};
use crate::kvm::kick::Kick;
use crate::kvm::{self, clock};
use crate::seccomp::Kind;

/// Everything a vCPU's thread has. The kick outlives the vCPU it belongs to.
pub(super) struct Body {
    pub(super) id: u8,
    pub(super) vcpu: VcpuFd,
    pub(super) fresh: Arc<Fresh>,
    pub(super) kick: Arc<Kick>,
    pub(super) nmi: Arc<Nmi>,
    pub(super) shared: Arc<Shared>,
}

impl Body {
    /// Runs the guest whenever the gate is open, until it ends. Returns the
    /// processor for whoever joins the thread to close: this one must not.
    pub(super) fn run(mut self) -> VcpuFd {
        if let Err(error) = self.shared.filters.apply(Kind::Vcpu) {
            self.report(error.to_string());
            return self.vcpu;
        }
        let mut last = None;
        while let Some(pass) = self.shared.gate.wait(last) {
            let left = match self.prepare(pass.start) {
                Ok(()) => self.run_guest(),
                Err(error) => {
                    self.report(format!("cannot reset it: {error}"));
                    Left::Stalled
                }
            };
            last = Some((pass, left));
            if self.shared.gate.left() == Held::AllOut {
                self.shared.events.post(Event::Parked);
            }
        }
        self.vcpu
    }

    fn prepare(&self, start: Start) -> Result<(), kvm::Error> {
        match start {
            Start::Afresh(entry) => self.fresh.apply(&self.vcpu, self.id, entry),
            Start::Again => {
                clock::tell_stopped(&self.vcpu);
                Ok(())
            }
        }
    }

    /// Runs the guest until the gate closes or the processor gives up.
    ///
    /// Only an interrupted `KVM_RUN` may be the last: it completes the port or
    /// memory access before it. That would otherwise hit the state after a reset,
    /// or be half done for as long as the guest stands still.
    fn run_guest(&mut self) -> Left {
        // One that was wanted while the gate was held.
        self.nmi.deliver(&self.vcpu);
        loop {
            match exit::run(&mut self.vcpu) {
                Exit::Interrupted => {
                    // First the byte, then the gate: a kick in between stays visible.
                    self.kick.noticed();
                    if !self.shared.gate.is_open() {
                        return Left::Called;
                    }
                    self.nmi.deliver(&self.vcpu);
                }
                Exit::PortIn(port, mut data) => {
                    let ports = &self.shared.spaces.ports;
                    for piece in data.pieces() {
                        ports.read(port.into(), piece);
                    }
                }
                Exit::PortOut(port, mut data) => {
                    let ports = &self.shared.spaces.ports;
                    for piece in data.pieces() {
                        ports.write(port.into(), piece);
                    }
                }
                Exit::MemoryRead(address, data) => {
                    self.shared.spaces.memory.read(address, data);
                }
                Exit::MemoryWrite(address, data) => {
                    self.shared.spaces.memory.write(address, data);
                }
                Exit::Shutdown => {
                    self.shared.events.post(Event::TripleFault { vcpu: self.id });
                    return Left::Stalled;
                }
                // Tried again: without the window, the access comes out to us.
                Exit::Unbacked(_) if self.shared.spaces.windows.close_one() => {
                    log::warn!("a device's memory has gone: one of its windows is closed");
                }
                Exit::Unbacked(reason) | Exit::Broken(reason) => {
                    self.report(reason);
                    return Left::Stalled;
                }
            }
        }
    }

    fn report(&self, reason: String) {
        self.shared.events.post(Event::Fault { vcpu: self.id, reason });
    }
}
