//! The machine's processors: one thread each, and one gate that lets them run.
//!
//! ```text
//!            start(entry)                      park()
//! parked ----------------> running ----------------------------> parked
//!    ^   reset, then run      | triple fault, KVM error: posts    |
//!    |                        v an event and waits                |
//!    +------------------- stalled <-------------------------------+
//! ```
//! A vCPU's file descriptor belongs to its thread alone, so the machine resets a
//! processor by letting its thread do it before it runs again.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use devices::space::Space;
use kvm_ioctls::VmFd;

use crate::arch::x86_64::cpuid::Template;
use crate::arch::x86_64::registers::Entry;
use crate::arch::x86_64::reset::Fresh;
use crate::events::{Event, Poster};
use crate::kvm::kick::{Kick, install_signal};
use crate::kvm::{self, Kvm};
use crate::seccomp::Filters;

mod gate;
mod thread;

use gate::Gate;

/// Bytes of a vCPU thread's stack.
const STACK: usize = 256 << 10;

/// What a processor can reach besides memory.
#[derive(Clone)]
pub struct Spaces {
    /// Guest-physical addresses that no memory backs.
    pub memory: Arc<Space>,
    /// Ports.
    pub ports: Arc<Space>,
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
    gate: Arc<Gate>,
    threads: Vec<Thread>,
}

struct Thread {
    kick: Arc<Kick>,
    /// Taken when it is joined.
    thread: Option<JoinHandle<()>>,
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
        let supported = kvm.supported_cpuid().map_err(|error| Error::Create(0, error))?;
        let cpuid = Template::new(&supported, count, kvm.has_tsc_deadline());
        let gate = Arc::new(Gate::default());
        let mut vcpus = Self { gate, threads: Vec::new() };
        let mut fresh = None;
        for id in 0..count {
            let vcpu = create(vm, &cpuid, id).map_err(|error| Error::Create(id, error))?;
            let fresh = match &fresh {
                Some(fresh) => Arc::clone(fresh),
                None => {
                    let captured = Fresh::capture(kvm, &vcpu);
                    let captured = captured.map_err(|error| Error::Create(id, error))?;
                    Arc::clone(fresh.insert(Arc::new(captured)))
                }
            };
            let kick = Kick::new(&vcpu).map_err(|error| Error::Thread(id, error))?;
            let kick = Arc::new(kick);
            let body = thread::Body {
                id,
                vcpu,
                fresh,
                kick: Arc::clone(&kick),
                gate: Arc::clone(&vcpus.gate),
                spaces: spaces.clone(),
                events: events.clone(),
                filters: Arc::clone(filters),
            };
            let thread = spawn(body).map_err(|error| Error::Thread(id, error))?;
            vcpus.threads.push(Thread { kick, thread: Some(thread) });
        }
        Ok(vcpus)
    }

    /// Resets all processors and lets them run: the first from `entry`, the
    /// others when it starts them. They must be parked.
    pub fn start(&self, entry: Entry) {
        self.gate.open(entry);
    }

    /// Takes all processors out of the guest and returns when they are out.
    pub fn park(&self) {
        self.gate.close();
        self.kick_all();
        self.gate.await_parked();
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    fn kick_all(&self) {
        for Thread { kick, thread } in &self.threads {
            if let Some(thread) = thread {
                kick.kick(thread);
            }
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.gate.end();
        self.kick_all();
        for thread in self.threads.iter_mut().filter_map(|thread| thread.thread.take()) {
            if thread.join().is_err() {
                log::error!("a vCPU thread panicked");
            }
        }
    }
}

fn create(vm: &VmFd, cpuid: &Template, id: u8) -> Result<kvm_ioctls::VcpuFd, kvm::Error> {
    let vcpu = vm.create_vcpu(u64::from(id)).map_err(kvm::Error::call("create a vCPU"))?;
    vcpu.set_cpuid2(&cpuid.of(id)).map_err(kvm::Error::call("set CPUID"))?;
    Ok(vcpu)
}

fn spawn(body: thread::Body) -> io::Result<JoinHandle<()>> {
    let name = format!("vcpu{}", body.id);
    Builder::new().name(name).stack_size(STACK).spawn(move || body.run())
}
