//! Which system calls each kind of thread may make: one allow-list a kind,
//! compiled to BPF at start, applied by each thread to itself.
//!
//! **How threads get their lists.** A filter is inherited by threads started
//! later, filters add up, and none can be taken back: a thread can never do
//! what its parent may not. The rule here: the HTTP thread and the monitor are
//! started while the first thread is still unfiltered; then the first thread, the event loop,
//! applies [`Kind::Main`], which is by construction the union of what it needs
//! itself and what vCPUs and workers need, because it starts those at any time. Threads that a worker starts keep the worker's list,
//! which is a superset of what threads of devices of ours narrow themselves to.
//!
//! **What nobody may do**: start processes or programs, trace, make memory
//! executable, open other sockets than Unix ones, or use an ioctl whose number
//! is not listed.
//!
//! **When a call is missing**, the process dies and says which call, which
//! thread and what arguments ([`trap`]). To collect all that are missing in one
//! run: `--seccomp log`, then `dmesg | grep type=1326` on the host: the kernel
//! logs each as `comm=<thread> syscall=<number>`, and lets it pass.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

mod found;
mod ioctls;
mod lists;
mod names;
mod trap;

use lists::{Call, When};
pub use trap::also_report_to;

/// What happens to a call that is not on the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// It ends the process, which says why.
    #[default]
    True,
    /// Nothing: there are no filters.
    False,
    /// The kernel logs it and lets it pass.
    Log,
}

/// Kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Talks to API clients.
    Http,
    /// Runs the guest and answers its exits.
    Vcpu,
    /// Delivers interrupts that have no route yet, and routes them.
    Relay,
    /// Builds and tears down: opens, maps, resets, closes.
    Worker,
    /// Writes events for whoever listens.
    Monitor,
    /// Serves a queue of a disk.
    Disk,
    /// Serves a queue that wants random numbers.
    Rng,
    /// One direction of a network card of ours.
    Net,
    /// Tells the host's kernel of a network card's queue, or takes its driver's commands.
    VhostNet,
    /// Tells the host's kernel of a vsock's queue.
    Vsock,
    /// Carries the messages of a vfio-user server.
    Carrier,
    /// Serves a balloon's queue.
    Balloon,
    /// Serves a queue of the paravirtual console.
    Console,
    /// The first thread: the event loop, which starts vCPUs and workers.
    Main,
}

impl Kind {
    const ALL: [Self; 14] = [
        Self::Http,
        Self::Vcpu,
        Self::Relay,
        Self::Worker,
        Self::Monitor,
        Self::Disk,
        Self::Rng,
        Self::Net,
        Self::VhostNet,
        Self::Vsock,
        Self::Carrier,
        Self::Balloon,
        Self::Console,
        Self::Main,
    ];
}

/// No sandbox, so better no process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A list that BPF can not express: a bug, found by the unit tests.
    #[error("cannot compile the system call list of {kind:?} threads")]
    Compile {
        /// Whose list.
        kind: Kind,
        /// What is wrong with it.
        #[source]
        source: BackendError,
    },
    /// The kernel refused the filter.
    #[error(
        "cannot apply the system call list of {kind:?} threads; is seccomp enabled in the kernel?"
    )]
    Apply {
        /// Whose list.
        kind: Kind,
        /// The kernel's reason.
        #[source]
        source: seccompiler::Error,
    },
    /// No handler, so a forbidden call would not be named.
    #[error("cannot handle SIGSYS")]
    Trap(#[source] io::Error),
}

/// All lists, compiled. Share it among the threads that start others.
#[derive(Debug)]
pub struct Filters {
    /// Calls that fail but harm nobody. Comes before each list.
    absent: BpfProgram,
    /// Empty if there are no filters.
    lists: BTreeMap<Kind, BpfProgram>,
}

impl Filters {
    /// Compiles the lists and prepares for trapped calls. Do this before other
    /// threads exist.
    pub fn new(mode: Mode) -> Result<Self, Error> {
        let mismatch = match mode {
            Mode::True => {
                trap::install().map_err(Error::Trap)?;
                SeccompAction::Trap
            }
            Mode::Log => SeccompAction::Log,
            Mode::False => return Ok(Self { absent: Vec::new(), lists: BTreeMap::new() }),
        };
        let error = |kind| move |source| Error::Compile { kind, source };
        let list = |kind| {
            let program = compile(&lists::of(kind), mismatch.clone()).map_err(error(kind))?;
            Ok((kind, program))
        };
        Ok(Self {
            absent: absent().map_err(error(Kind::Main))?,
            lists: Kind::ALL.into_iter().map(list).collect::<Result<_, _>>()?,
        })
    }

    /// Restricts the calling thread, and those it starts from now on, to the
    /// list of `kind`. Call it first thing in the thread.
    pub fn apply(&self, kind: Kind) -> Result<(), Error> {
        let Some(list) = self.lists.get(&kind) else { return Ok(()) };
        let error = |source| Error::Apply { kind, source };
        seccompiler::apply_filter(&self.absent).map_err(error)?;
        seccompiler::apply_filter(list).map_err(error)
    }
}

/// `clone3` hides its flags in memory, where no filter can check them. Told
/// that it does not exist, the C library falls back to `clone`.
fn absent() -> Result<BpfProgram, BackendError> {
    let errno = libc::ENOSYS.unsigned_abs();
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(errno));
    SeccompFilter::new(rules, others, these, TargetArch::x86_64)?.try_into()
}

fn compile(calls: &[&[Call]], mismatch: SeccompAction) -> Result<BpfProgram, BackendError> {
    let rules = rules(calls)?;
    SeccompFilter::new(rules, mismatch, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

/// Merges lists. A call's conditions are alternatives, tried in the order of the
/// lists, and no conditions at all mean that it is always allowed.
fn rules(calls: &[&[Call]]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let calls = || calls.iter().copied().flatten();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls() {
        let known = rules.entry(call.number).or_default();
        for rule in alternatives(&call.when)? {
            if !known.contains(&rule) {
                known.push(rule);
            }
        }
    }
    for call in calls().filter(|call| matches!(call.when, When::Always)) {
        rules.insert(call.number, Vec::new());
    }
    Ok(rules)
}

fn alternatives(when: &When) -> Result<Vec<SeccompRule>, BackendError> {
    // Flags and requests are ints: the kernel ignores the upper halves.
    let condition = |argument, operator, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    };
    let rule =
        |argument, operator, value| SeccompRule::new(vec![condition(argument, operator, value)?]);
    match *when {
        When::Always => Ok(Vec::new()),
        When::OneOf { argument, values } => {
            values.iter().map(|value| rule(argument, SeccompCmpOp::Eq, *value)).collect()
        }
        When::Masked(bits) => {
            let bits = bits.iter().map(|bits| {
                condition(bits.argument, SeccompCmpOp::MaskedEq(bits.mask), bits.value)
            });
            Ok(vec![SeccompRule::new(bits.collect::<Result<_, _>>()?)?])
        }
        When::Found { argument, value } => Ok(vec![rule(argument, SeccompCmpOp::Eq, value())?]),
    }
}

#[cfg(test)]
mod tests;
