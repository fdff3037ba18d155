//! The machine's processors: one thread each, and one gate that lets them run.
//!
//! ```text
//!            start(entry): reset, then run
//! parked --------------------------------------------> running
//!                                                       |  ^ |
//!            hold(): out, and the last one posts it     |  | |
//!   held <----------------------------------------------+  | |
//!     |  go_on(): where it stood, or start(entry)          | |
//!     +----------------------------------------------------+ |
//!                                                            | triple fault, KVM
//! stalled, until start(entry) <------------------------------+ error: posted
//! ```
//! A vCPU's file descriptor belongs to its thread alone, so the machine resets a
//! processor by letting its thread do it before it runs again.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use devices::space::Space;
use kvm_ioctls::{VcpuFd, VmFd};

use crate::arch::x86_64::cpuid::Template;
use crate::arch::x86_64::registers::Entry;
use crate::arch::x86_64::reset::Fresh;
use crate::events::{Event, Poster};
use crate::kvm::kick::{Kick, install_signal};
use crate::kvm::{self, Kvm};
use crate::memory::slots::DeviceWindows;
use crate::seccomp::Filters;

mod gate;
mod nmi;
mod thread;

use gate::{Gate, Held};
use nmi::Nmi;

/// Bytes of a vCPU thread's stack.
const STACK: usize = 256 << 10;

/// What a processor can reach besides memory.
#[derive(Clone)]
pub struct Spaces {
    /// Guest-physical addresses that no memory backs.
    pub memory: Arc<Space>,
    /// Ports.
    pub ports: Arc<Space>,
    /// Memory of devices, which the host may take away.
    pub windows: DeviceWindows,
}

/// Why there are no processors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More than the kernel can have.
    #[error("{wanted} vCPUs are more than this host's KVM supports ({most})")]
    TooMany {
        /// Asked for.
        wanted: u8,
        /// The kernel's limit.
        most: usize,
    },
    /// A kernel call.
    #[error("cannot create vCPU {0}")]
    Create(u8, #[source] kvm::Error),
    /// The host has no thread or memory left.
    #[error("cannot start the thread of vCPU {0}")]
    Thread(u8, #[source] io::Error),
}

/// All processors of a machine. Dropping them stops and joins their threads.
pub struct Vcpus {
    shared: Arc<Shared>,
    threads: Vec<Thread>,
}

/// What all vCPU threads have in common.
struct Shared {
    gate: Gate,
    spaces: Spaces,
    events: Poster<Event>,
    filters: Arc<Filters>,
}

struct Thread {
    kick: Arc<Kick>,
    nmi: Arc<Nmi>,
    /// Taken when it is joined.
    thread: Option<JoinHandle<VcpuFd>>,
}

impl Vcpus {
    /// Creates `count` processors of `vm`, parked.
    pub fn new(
        (kvm, vm): (&Kvm, &VmFd),
        count: u8,
        spaces: &Spaces,
        (events, filters): (&Poster<Event>, &Arc<Filters>),
    ) -> Result<Self, Error> {
        let most = kvm.most_vcpus();
        if usize::from(count) > most {
            return Err(Error::TooMany { wanted: count, most });
        }
        install_signal().map_err(|error| Error::Thread(0, error))?;
        let vcpus = create(kvm, vm, count)?;
        let fresh = vcpus.first().map(|first| Fresh::capture(kvm, first)).transpose();
        let fresh = fresh.map_err(|error| Error::Create(0, error))?.map(Arc::new);
        let shared = Arc::new(Shared {
            gate: Gate::default(),
            spaces: spaces.clone(),
            events: events.clone(),
            filters: Arc::clone(filters),
        });
        let mut all = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        for ((id, vcpu), fresh) in (0..count).zip(vcpus).zip(std::iter::repeat(fresh).flatten()) {
            let thread = Thread::start(id, vcpu, fresh, &shared);
            all.threads.push(thread.map_err(|error| Error::Thread(id, error))?);
        }
        Ok(all)
    }

    /// Resets all processors and lets them run: the first from `entry`, the
    /// others when it starts them. They must be parked, or held and out.
    pub fn start(&self, entry: Entry) {
        // Here, not by the threads: what comes after this is of the new boot.
        self.threads.iter().for_each(|thread| thread.nmi.forget());
        self.shared.gate.open(entry);
    }

    /// Calls all processors out of the guest; when they are out, [`Event::Parked`]
    /// is posted. An access that one is in is completed first.
    pub fn hold(&self) {
        if self.shared.gate.hold() == Held::AllOut {
            return self.shared.events.post(Event::Parked);
        }
        self.kick_all();
    }

    /// Lets all processors that were held go on where they stood.
    pub fn go_on(&self) {
        self.shared.gate.let_go();
    }

    /// Interrupts every processor that has been started, whatever it has masked: at once,
    /// or when it goes on if it is held.
    pub fn interrupt_all(&self) {
        self.threads.iter().for_each(|thread| thread.nmi.want());
        self.kick_all();
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    fn kick_all(&self) {
        for Thread { kick, thread, .. } in &self.threads {
            if let Some(thread) = thread {
                kick.kick(thread);
            }
        }
    }
}

impl Thread {
    fn start(id: u8, vcpu: VcpuFd, fresh: Arc<Fresh>, shared: &Arc<Shared>) -> io::Result<Self> {
        let kick = Arc::new(Kick::new(&vcpu)?);
        let (nmi, shared) = (Arc::<Nmi>::default(), Arc::clone(shared));
        let body = thread::Body {
            id,
            vcpu,
            fresh,
            kick: Arc::clone(&kick),
            nmi: Arc::clone(&nmi),
            shared,
        };
        let thread = Builder::new().name(format!("vcpu{id}")).stack_size(STACK);
        Ok(Self { kick, nmi, thread: Some(thread.spawn(move || body.run())?) })
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.shared.gate.end();
        self.kick_all();
        for thread in self.threads.iter_mut().filter_map(|thread| thread.thread.take()) {
            match thread.join() {
                Ok(vcpu) => drop(vcpu),
                Err(_) => log::error!("a vCPU thread panicked"),
            }
        }
    }
}

/// Creates the processors; an APIC id is an index.
fn create(kvm: &Kvm, vm: &VmFd, count: u8) -> Result<Vec<VcpuFd>, Error> {
    let supported = kvm.supported_cpuid().map_err(|error| Error::Create(0, error))?;
    let cpuid = Template::new(&supported, count, kvm.has_tsc_deadline());
    let create = |id: u8| {
        let vcpu = vm.create_vcpu(id.into()).map_err(kvm::Error::call("create a vCPU"))?;
        vcpu.set_cpuid2(&cpuid.of(id)).map_err(kvm::Error::call("set CPUID"))?;
        Ok(vcpu)
    };
    (0..count).map(|id| create(id).map_err(|error| Error::Create(id, error))).collect()
}

#[cfg(test)]
mod tests;
