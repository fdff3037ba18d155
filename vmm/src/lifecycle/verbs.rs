//! What each verb does in each stage of a VM: one table, which knows neither the
//! machine nor who asks. Looking (info, counters), a ping and the end of the
//! process are allowed always, and so not in it.

use api::request::{Fault, Status, code};

/// A verb that not every stage allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `vm.create`.
    Create,
    /// `vm.boot`.
    Boot,
    /// `vm.add-device` and `vm.remove-device`.
    Devices,
    /// `vm.interrupts`, `vm.test-interrupt` and `vm.check-device`.
    Interrupts,
    /// `vm.nmi` and `vm.power-button`.
    Attention,
    /// `vm.reboot`.
    Reboot,
    /// `vm.pause`.
    Pause,
    /// `vm.resume`.
    Resume,
    /// `vm.shutdown`.
    Shutdown,
    /// `vm.delete`.
    Delete,
}

/// A stage without what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is no VM.
    None,
    /// Nothing but a configuration.
    Created,
    /// Being built.
    Starting,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are on their way out.
    Pausing,
    /// Its vCPUs stand still.
    Paused,
    /// Everything is being reset.
    Rebooting,
    /// Being taken apart.
    Stopping,
    /// It ran.
    Shutdown,
}

/// What a verb does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// What it is for.
    Act,
    /// That, on the configuration alone: there is no machine.
    Configure,
    /// That, and what is under way is given up: who waits for it is told 503.
    Cancel,
    /// It is answered when what is under way is done.
    Join,
}

/// Why a stage does not allow something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Create first.
    #[error("no VM has been created")]
    NotCreated,
    /// Only one at a time.
    #[error("there is a VM already; delete it first")]
    Exists,
    /// It does not run.
    #[error("the VM is not running")]
    NotRunning,
    /// Its devices are still being opened.
    #[error("the VM is starting; try again when vm.boot has been answered")]
    Starting,
    /// It runs already.
    #[error("the VM is running already")]
    Running,
    /// Its vCPUs are on their way out of the guest.
    #[error("the VM is being paused; try again when vm.pause has been answered")]
    Pausing,
    /// Its vCPUs stand still.
    #[error("the VM is paused; vm.resume lets it go on")]
    Paused,
    /// It starts afresh.
    #[error("the VM is being rebooted; try again when it runs")]
    Rebooting,
    /// A worker takes it apart.
    #[error("the VM is being shut down; try again when that has been answered")]
    Stopping,
}

impl Standing {
    /// What `verb` does now, or why it does nothing.
    pub(crate) fn effect(self, verb: Verb) -> Result<Effect, Refusal> {
        self.row()[verb as usize]
    }

    /// What each verb does, in the order of [`Verb`].
    #[rustfmt::skip]
    fn row(self) -> [Result<Effect, Refusal>; 10] {
        let [act, config, cancel, join] =
            [Effect::Act, Effect::Configure, Effect::Cancel, Effect::Join].map(Ok);
        let (no, taken) = (Err(self.refusal()), Err(Refusal::Exists));
        match self {
            //                  create boot devices interrupts attention reboot pause resume shutdown delete
            Self::None      => [act,   no,  no,      no,         no,        no,     no,    no,     no,       no],
            Self::Created   => [taken, act, config,  no,         no,        no,     no,    no,     no,       act],
            Self::Starting  => [taken, no,  no,      no,         no,        no,     no,    no,     cancel,   cancel],
            Self::Running   => [taken, no,  act,     act,        act,       act,    act,   no,     act,      act],
            Self::Pausing   => [taken, no,  act,     act,        act,       no,     no,    no,     cancel,   cancel],
            Self::Paused    => [taken, no,  act,     act,        act,       act,    no,    act,    act,      act],
            Self::Rebooting => [taken, no,  act,     act,        no,        no,     no,    no,     cancel,   cancel],
            Self::Stopping  => [no,    no,  no,      no,         no,        no,     no,    no,     no,       join],
            Self::Shutdown  => [taken, act, config,  no,         no,        no,     no,    no,     no,       act],
        }
    }

    /// Why what is not allowed is not.
    fn refusal(self) -> Refusal {
        match self {
            Self::None => Refusal::NotCreated,
            Self::Created | Self::Shutdown => Refusal::NotRunning,
            Self::Starting => Refusal::Starting,
            Self::Running => Refusal::Running,
            Self::Pausing => Refusal::Pausing,
            Self::Paused => Refusal::Paused,
            Self::Rebooting => Refusal::Rebooting,
            Self::Stopping => Refusal::Stopping,
        }
    }
}

impl Refusal {
    /// Whose mistake it is, and its code.
    pub(crate) fn class(self) -> (Status, &'static str) {
        match self {
            Self::NotCreated => (Status::NotFound, code::VM_NOT_CREATED),
            Self::Exists => (Status::BadRequest, code::VM_EXISTS),
            Self::NotRunning => (Status::BadRequest, code::VM_NOT_RUNNING),
            Self::Starting => (Status::Busy, code::VM_STARTING),
            Self::Running => (Status::BadRequest, code::VM_RUNNING),
            Self::Pausing => (Status::Busy, code::VM_PAUSING),
            Self::Paused => (Status::BadRequest, code::VM_PAUSED),
            Self::Rebooting => (Status::Busy, code::VM_REBOOTING),
            Self::Stopping => (Status::Busy, code::VM_STOPPING),
        }
    }

    /// What a client is told; `asked` says what could not be done.
    pub(crate) fn fault(self, asked: &str) -> Fault {
        let (status, code) = self.class();
        Fault::new(status, code, asked, &self)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/api.md");
    pub(in crate::lifecycle) const VERBS: [Verb; 10] = [
        Verb::Create,
        Verb::Boot,
        Verb::Devices,
        Verb::Interrupts,
        Verb::Attention,
        Verb::Reboot,
        Verb::Pause,
        Verb::Resume,
        Verb::Shutdown,
        Verb::Delete,
    ];
    const ALL: [Standing; 9] = [
        Standing::None,
        Standing::Created,
        Standing::Starting,
        Standing::Running,
        Standing::Pausing,
        Standing::Paused,
        Standing::Rebooting,
        Standing::Stopping,
        Standing::Shutdown,
    ];

    /// A cell as the document has it.
    fn word(cell: Result<Effect, Refusal>) -> &'static str {
        match cell {
            Ok(Effect::Act) => "yes",
            Ok(Effect::Configure) => "configuration",
            Ok(Effect::Cancel) => "yes, gives up",
            Ok(Effect::Join) => "joins",
            Err(refusal) => refusal.class().1,
        }
    }

    #[test]
    fn every_cell_is_as_the_document_says() {
        for standing in ALL {
            let words =
                VERBS.map(|verb| word(standing.effect(verb))).join(" | ").replace("vm.", "");
            let row = format!("| {standing:?} | {words} |");
            assert!(DOCUMENT.lines().any(|line| line == row), "docs/api.md lacks this row: {row}");
        }
    }
}
