//! A VM from its configuration to its end.
//!
//! ```text
//!          create            boot             built           shutdown
//! (none) ---------> Created -------> Starting -------> Running -Stopping-> Shutdown
//!    ^                 |  ^             |                |                    | boot: Starting
//!    |                 |  +--Stopping---+ failed         |                    |
//!    +----- delete ----+------------------ delete: Stopping ------------------+
//! ```
//! Running, closer:
//!
//! ```text
//!           pause              all vCPUs out              resume
//! Running ---------> Pausing ------------------> Paused ---------> Running
//!                                                  |
//!              reboot, or the guest's own reset    v reboot
//! Running -------------------------------------> Rebooting ------> Running
//!                           all are reset, and the kernel is read
//! ```
//! What a stage allows is `verbs`' to say. A guest that asks for its end or a
//! reset in its last moment before it stands still gets it at the resume.
//!
//! In Starting, workers read the kernel, open the devices and map all RAM, which
//! takes seconds, while the event loop serves on.
//! A reboot keeps the machine: its VM, memory, memory slots and devices, with
//! RAM pinned. Only the processors and interrupt controllers begin again.

mod attention;
mod bay;
mod end;
mod error;
mod finished;
mod interrupts;
mod pause;
mod reboot;
mod start;
mod stop;
mod verbs;
mod warm;

use std::io;
use std::sync::Arc;

use std::time::Duration;

use api::request::Request;
use api::schema::info::VmState;
use api::schema::machine::VmConfig;
use devices::platform::power::PowerEvent;
use vmm_sys_util::timerfd::TimerFd;

use crate::config::VmSpec;
use crate::events::{self, Event, Inbox, Poster};
use crate::hotplug::Finished;
use crate::machine::Machine;
use crate::monitor::Monitor;
use crate::sandbox::{Grant, Sandbox};
use crate::seccomp::Filters;
use crate::watch::{Source, Watch};

use self::end::End;
pub use self::end::Ending;
pub use self::error::{Error, chain};
pub(crate) use self::pause::{Pause, Pausing};
pub(crate) use self::reboot::Rebooting;
pub(crate) use self::start::Starting;
pub(crate) use self::stop::Stopping;
pub use self::verbs::Refusal;
pub(crate) use self::verbs::Verb;
use self::verbs::{Effect, Standing};

/// How often the bay looks whether the guest has noticed.
const TICK: Duration = Duration::from_millis(250);

/// The one VM that a process may have, and what happens to it.
pub struct Vmm {
    pub(crate) vm: Option<Vm>,
    pub(crate) poster: Poster<Event>,
    pub(crate) inbox: Inbox<Event>,
    pub(crate) finished_poster: Poster<Finished>,
    pub(crate) finished: Inbox<Finished>,
    /// Ticks while something in the bay waits for time to pass.
    timer: TimerFd,
    ticks: bool,
    pub(crate) watch: Watch,
    /// What the threads of a machine may do.
    pub(crate) filters: Arc<Filters>,
    /// Told what happens to the VM.
    pub(crate) monitor: Monitor,
    /// Set when the process is to end.
    end: Option<End>,
    /// What the process reaches of the host's file system.
    pub(crate) sandbox: Sandbox,
    /// Boots so far: what belongs to an earlier one is told by its number.
    boots: u64,
}

/// A VM: what was asked for, and the machine while there is one.
pub(crate) struct Vm {
    pub(crate) config: VmConfig,
    pub(crate) spec: VmSpec,
    pub(crate) stage: Stage,
}

/// How far a VM has come.
pub(crate) enum Stage {
    /// Nothing but a configuration.
    Created,
    /// Its kernel is being read, its devices are being opened; its vCPUs have not
    /// started.
    Starting(Box<Machine>, Starting),
    /// Its vCPUs run.
    Running(Box<Machine>),
    /// Its vCPUs are on their way out of the guest.
    Pausing(Box<Machine>, Pausing),
    /// Its vCPUs stand still.
    Paused(Box<Machine>, Pause),
    /// Everything goes back to its state at power-on.
    Rebooting(Box<Machine>, Rebooting),
    /// A worker takes the machine apart.
    Stopping(Stopping),
    /// It ran.
    Shutdown,
}

impl Vmm {
    /// No VM yet. Threads of its machine will be confined by `filters`; what
    /// happens to it, `monitor` is told.
    pub fn new(filters: Arc<Filters>, monitor: Monitor) -> io::Result<Self> {
        let (poster, inbox) = events::channel()?;
        let (finished_poster, finished) = events::channel()?;
        let (timer, watch) = (TimerFd::new().map_err(io::Error::from)?, Watch::new()?);
        watch.add(&timer, Source::Timer)?;
        let (vm, end, boots) = (None, None, 0);
        Ok(Self {
            vm,
            poster,
            inbox,
            finished_poster,
            finished,
            timer,
            ticks: false,
            watch,
            filters,
            monitor,
            end,
            sandbox: Sandbox::default(),
            boots,
        })
    }

    /// Closes everything of the host's file system but what hotbay itself needs, and
    /// `rules`: for VMs that are yet to be created.
    pub fn confine(&mut self, rules: Vec<Grant>) -> Result<(), Error> {
        Ok(self.sandbox.enter(rules)?)
    }

    /// Remembers a configuration; nothing runs yet. What it boots must lie within the
    /// sandbox, which is entered here if it asks for one.
    pub fn create(&mut self, config: VmConfig) -> Result<(), Error> {
        let spec = VmSpec::try_from(config.clone())?;
        match &spec.landlock {
            Some(rules) => self.sandbox.enter([spec.paths(), rules.clone()].concat())?,
            None => self.sandbox.check(&spec.paths())?,
        }
        if spec.has_functions() {
            self.sandbox.check_devices()?;
        }
        // Cards may hold descriptors, which have one place, the specification.
        let config = VmConfig { net: None, ..config };
        self.vm = Some(Vm { config, spec, stage: Stage::Created });
        Ok(())
    }

    /// Whether the VM's stage allows `request`.
    pub(crate) fn allows(&self, request: &Request) -> Result<(), Refusal> {
        self.effect(Verb::of(request)).map(drop)
    }

    /// What `verb` does now, unless the VM's stage refuses it.
    fn effect(&self, verb: Verb) -> Result<Effect, Refusal> {
        let standing = match &self.vm {
            // Nothing is begun any more.
            _ if self.end.is_some() => Standing::Stopping,
            Some(vm) => vm.stage.standing(),
            None => Standing::None,
        };
        standing.effect(verb)
    }

    fn enter(&mut self, stage: Stage) {
        if let Some(vm) = &mut self.vm {
            vm.stage = stage;
        }
    }

    /// Does what the guest asked for, or what its end demands. What it asks for
    /// while it runs ends this boot, so the first decides and the rest is stale.
    pub fn take_events(&mut self) {
        for event in self.inbox.drain() {
            match event {
                Event::Parked => self.parked(),
                // Of a machine or a boot that is over.
                _ if self.is_over() => {}
                Event::Fault { vcpu, reason } => {
                    self.end(Ending::Failed(format!("vCPU {vcpu} cannot go on: {reason}")));
                }
                Event::PowerOff => self.asked(PowerEvent::Off),
                Event::Reset => self.asked(PowerEvent::Reset),
                Event::TripleFault { vcpu } => {
                    log::warn!("vCPU {vcpu} has stopped at a triple fault, so the guest restarts");
                    self.asked(PowerEvent::Reset);
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        let stage = self.vm.as_ref().map(|vm| &vm.stage);
        matches!(stage, Some(Stage::Stopping(_) | Stage::Rebooting(..)))
    }

    /// The guest asks for this: now, or at the resume.
    fn asked(&mut self, event: PowerEvent) {
        if !self.keep_for_resume(event) {
            self.obey(event);
        }
    }

    /// Does what the guest asks for, which ends this boot.
    fn obey(&mut self, asked: PowerEvent) {
        match asked {
            PowerEvent::Off => {
                log::info!("the guest has powered off");
                self.end(Ending::Asked);
            }
            PowerEvent::Reset => {
                log::info!("the guest restarts");
                self.reboot(None);
            }
        }
    }

    /// Serves the machine's descriptors.
    pub fn take_ready(&mut self) {
        for source in self.watch.ready() {
            let machine = self.vm.as_mut().and_then(|vm| vm.stage.built());
            match (source, machine) {
                (Source::Console, Some(machine)) => machine.serve_consoles(),
                (Source::Slots, Some(machine)) => {
                    machine.bay.take_ejected();
                }
                (Source::Devices, Some(machine)) => {
                    machine.bay.take_notices();
                    self.start_timer();
                }
                (Source::Timer, machine) => {
                    // Ready, so it does not block.
                    let _ = self.timer.wait();
                    let waits =
                        |machine: &mut Machine| machine.bay.tick() | machine.button.remind();
                    if !machine.is_some_and(waits) {
                        let _ = self.timer.clear();
                        self.ticks = false;
                    }
                }
                // Closed together with the machine.
                (Source::Console | Source::Slots | Source::Devices, None) => {}
            }
        }
    }

    /// Lets the bay be called again while something waits in it.
    fn start_timer(&mut self) {
        // One that ticks already goes on as it does.
        if self.ticks {
            return;
        }
        match self.timer.reset(TICK, Some(TICK)) {
            Ok(()) => self.ticks = true,
            Err(error) => {
                log::error!("no timer: a guest that misses a notice is not reminded: {error}");
            }
        }
    }
}

impl Stage {
    /// The machine of a guest that has booted.
    pub(crate) fn machine(&self) -> Option<&Machine> {
        match self {
            Self::Running(machine)
            | Self::Pausing(machine, _)
            | Self::Paused(machine, _)
            | Self::Rebooting(machine, _) => Some(machine),
            Self::Created | Self::Starting(..) | Self::Stopping(_) | Self::Shutdown => None,
        }
    }

    /// The same, to change it.
    fn booted(&mut self) -> Option<&mut Machine> {
        match self {
            Self::Running(machine)
            | Self::Pausing(machine, _)
            | Self::Paused(machine, _)
            | Self::Rebooting(machine, _) => Some(machine),
            Self::Created | Self::Starting(..) | Self::Stopping(_) | Self::Shutdown => None,
        }
    }

    /// The machine, whether its guest has booted yet or not.
    fn built(&mut self) -> Option<&mut Machine> {
        if let Self::Starting(machine, _) = self { Some(machine) } else { self.booted() }
    }

    /// The stage, to make another one of it that is put back.
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Shutdown)
    }

    /// The machine, which leaves the stage: another one is to be put there.
    fn take_machine(&mut self) -> Option<Box<Machine>> {
        self.built()?;
        match self.take() {
            Self::Starting(machine, _)
            | Self::Running(machine)
            | Self::Pausing(machine, _)
            | Self::Paused(machine, _)
            | Self::Rebooting(machine, _) => Some(machine),
            Self::Created | Self::Stopping(_) | Self::Shutdown => None,
        }
    }

    /// The guest runs from now on.
    fn run(&mut self) {
        if let Some(machine) = self.take_machine() {
            *self = Self::Running(machine);
        }
    }

    /// The stage without what goes with it.
    fn standing(&self) -> Standing {
        match self {
            Self::Created => Standing::Created,
            Self::Starting(..) => Standing::Starting,
            Self::Running(_) => Standing::Running,
            Self::Pausing(..) => Standing::Pausing,
            Self::Paused(..) => Standing::Paused,
            Self::Rebooting(..) => Standing::Rebooting,
            Self::Stopping(_) => Standing::Stopping,
            Self::Shutdown => Standing::Shutdown,
        }
    }

    /// The state's name on the API.
    pub(crate) fn state(&self) -> VmState {
        match self {
            Self::Created | Self::Starting(..) => VmState::Created,
            Self::Stopping(stopping) if stopping.never_ran() => VmState::Created,
            Self::Running(_) | Self::Pausing(..) | Self::Rebooting(..) | Self::Stopping(_) => {
                VmState::Running
            }
            Self::Paused(..) => VmState::Paused,
            Self::Shutdown => VmState::Shutdown,
        }
    }
}

#[cfg(test)]
mod tests;
