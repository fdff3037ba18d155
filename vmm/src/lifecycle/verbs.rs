//! What each verb does in each stage of a VM: one table, which knows neither the
//! machine nor who asks. [`crate::control`] looks into it before it does anything.

use api::request::{Fault, Request, Status, code};

/// A [`Request`] without what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `vmm.ping`.
    Ping,
    /// `vmm.shutdown`.
    VmmShutdown,
    /// `vm.create`.
    Create,
    /// `vm.boot`.
    Boot,
    /// `vm.info`.
    Info,
    /// `vm.counters`.
    Counters,
    /// `vm.events`.
    Events,
    /// `vm.add-device`.
    AddDevice,
    /// `vm.add-disk`.
    AddDisk,
    /// `vm.add-net`.
    AddNet,
    /// `vm.add-vsock`.
    AddVsock,
    /// `vm.add-user-device`.
    AddUserDevice,
    /// `vm.resize`.
    Resize,
    /// `vm.remove-device`.
    RemoveDevice,
    /// `vm.check-device`.
    CheckDevice,
    /// `vm.interrupts`.
    Interrupts,
    /// `vm.test-interrupt`.
    TestInterrupt,
    /// `vm.nmi`.
    Nmi,
    /// `vm.power-button`.
    PowerButton,
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

/// A cell of the table.
#[derive(Clone, Copy)]
enum Cell {
    /// Allowed.
    Does(Effect),
    /// Refused, because the VM stands as it does.
    No,
    /// Refused, because there is a VM.
    Taken,
}

impl Verb {
    /// What a client asks for.
    pub(crate) fn of(request: &Request) -> Self {
        match request {
            Request::Ping => Self::Ping,
            Request::VmmShutdown => Self::VmmShutdown,
            Request::Create(_) => Self::Create,
            Request::Boot => Self::Boot,
            Request::Info => Self::Info,
            Request::Counters => Self::Counters,
            Request::Events(_) => Self::Events,
            Request::AddDevice(_) => Self::AddDevice,
            Request::AddDisk(_) => Self::AddDisk,
            Request::AddNet(_) => Self::AddNet,
            Request::AddVsock(_) => Self::AddVsock,
            Request::AddUserDevice(_) => Self::AddUserDevice,
            Request::Resize(_) => Self::Resize,
            Request::RemoveDevice(_) => Self::RemoveDevice,
            Request::CheckDevice(_) => Self::CheckDevice,
            Request::Interrupts(_) => Self::Interrupts,
            Request::TestInterrupt(_) => Self::TestInterrupt,
            Request::Nmi => Self::Nmi,
            Request::PowerButton => Self::PowerButton,
            Request::Reboot => Self::Reboot,
            Request::Pause => Self::Pause,
            Request::Resume => Self::Resume,
            Request::Shutdown => Self::Shutdown,
            Request::Delete => Self::Delete,
        }
    }

    /// What it does in each stage, in the order of [`Standing`].
    #[rustfmt::skip]
    const fn row(self) -> [Cell; 9] {
        use Cell::{No, Taken};
        const YES: Cell = Cell::Does(Effect::Act);
        const CONF: Cell = Cell::Does(Effect::Configure);
        const STOP: Cell = Cell::Does(Effect::Cancel);
        const JOIN: Cell = Cell::Does(Effect::Join);
        match self {
            //                                        None Created Starting Running Pausing Paused Rebooting Stopping Shutdown
            Self::Ping | Self::Events             => [YES, YES,    YES,     YES,    YES,    YES,   YES,      YES,     YES],
            Self::VmmShutdown                     => [YES, YES,    STOP,    YES,    STOP,   YES,   STOP,     JOIN,    YES],
            Self::Create                          => [YES, Taken,  Taken,   Taken,  Taken,  Taken, Taken,    No,      Taken],
            Self::Boot                            => [No,  YES,    No,      No,     No,     No,    No,       No,      YES],
            Self::Info | Self::Counters           => [No,  YES,    YES,     YES,    YES,    YES,   YES,      YES,     YES],
            Self::AddDevice | Self::AddDisk | Self::AddNet
            | Self::AddVsock | Self::Resize
            | Self::AddUserDevice
            | Self::RemoveDevice                  => [No,  CONF,   No,      YES,    YES,    YES,   YES,      No,      CONF],
            Self::CheckDevice                     => [No,  No,     No,      YES,    YES,    YES,   YES,      No,      No],
            Self::Interrupts | Self::TestInterrupt=> [No,  No,     No,      YES,    YES,    YES,   YES,      No,      No],
            Self::Nmi | Self::PowerButton         => [No,  No,     No,      YES,    YES,    YES,   No,       No,      No],
            Self::Reboot                          => [No,  No,     No,      YES,    No,     YES,   No,       No,      No],
            Self::Pause                           => [No,  No,     No,      YES,    No,     No,    No,       No,      No],
            Self::Resume                          => [No,  No,     No,      No,     No,     YES,   No,       No,      No],
            Self::Shutdown                        => [No,  No,     STOP,    YES,    STOP,   YES,   STOP,     No,      No],
            Self::Delete                          => [No,  YES,    STOP,    YES,    STOP,   YES,   STOP,     JOIN,    YES],
        }
    }

    /// What a client is told could not be done.
    pub(crate) const fn failed(self) -> &'static str {
        match self {
            Self::Ping => "cannot answer",
            Self::VmmShutdown => "cannot end",
            Self::Create => "cannot create the VM",
            Self::Boot => "cannot boot the VM",
            Self::Info => "cannot show the VM",
            Self::Counters => "cannot count",
            Self::Events => "cannot show events",
            Self::AddDevice | Self::AddUserDevice | Self::CheckDevice => "cannot add the device",
            Self::AddDisk => "cannot add the disk",
            Self::AddNet => "cannot add the network card",
            Self::AddVsock => "cannot add the vsock",
            Self::Resize => "cannot resize the VM",
            Self::RemoveDevice => "cannot remove the device",
            Self::Interrupts => "cannot show interrupts",
            Self::TestInterrupt => "cannot test an interrupt",
            Self::Nmi => "cannot interrupt the guest",
            Self::PowerButton => "cannot press the power button",
            Self::Reboot => "cannot reboot the VM",
            Self::Pause => "cannot pause the VM",
            Self::Resume => "cannot resume the VM",
            Self::Shutdown => "cannot shut the VM down",
            Self::Delete => "cannot delete the VM",
        }
    }
}

impl Standing {
    /// What `verb` does now, or why it does nothing.
    pub(crate) fn effect(self, verb: Verb) -> Result<Effect, Refusal> {
        match verb.row()[self as usize] {
            Cell::Does(effect) => Ok(effect),
            Cell::No => Err(self.refusal()),
            Cell::Taken => Err(Refusal::Exists),
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
    use api::route::ROUTES;
    use api::schema::device::{AddDevice, RemoveDevice};
    use api::schema::events::Follow;
    use api::schema::interrupts::TestInterrupt;
    use yaml_rust2::YamlLoader;

    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/api.md");

    pub(in crate::lifecycle) const STANDINGS: [Standing; 9] = [
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

    /// One of each verb, about a device that is not there.
    pub(in crate::lifecycle) fn requests() -> Vec<Request> {
        let id = || "nobody".to_owned();
        let device: AddDevice = serde_json::from_str(r#"{"path":"/nowhere"}"#).unwrap();
        vec![
            Request::Ping,
            Request::VmmShutdown,
            Request::Create(Box::default()),
            Request::Boot,
            Request::Info,
            Request::Counters,
            Request::Events(Follow::default()),
            Request::AddDevice(device.clone()),
            Request::AddDisk(serde_json::from_str(r#"{"path":"/nowhere"}"#).unwrap()),
            Request::AddNet(serde_json::from_str(r#"{"tap":"lo"}"#).unwrap()),
            Request::AddVsock(serde_json::from_str(r#"{"cid":3}"#).unwrap()),
            Request::AddUserDevice(serde_json::from_str(r#"{"socket":"/nowhere"}"#).unwrap()),
            Request::Resize(serde_json::from_str("{}").unwrap()),
            Request::RemoveDevice(RemoveDevice { id: id(), wait_ms: None, force: None }),
            Request::CheckDevice(device),
            Request::Interrupts(None),
            Request::TestInterrupt(TestInterrupt { id: id(), vector: 0 }),
            Request::Nmi,
            Request::PowerButton,
            Request::Reboot,
            Request::Pause,
            Request::Resume,
            Request::Shutdown,
            Request::Delete,
        ]
    }

    /// A cell as the document has it.
    fn word(cell: Result<Effect, Refusal>) -> &'static str {
        match cell {
            Ok(Effect::Act) => "yes",
            Ok(Effect::Configure) => "configuration",
            Ok(Effect::Cancel) => "yes, gives up",
            Ok(Effect::Join) => "joins",
            Err(refusal) => refusal.class().1.trim_start_matches("vm."),
        }
    }

    #[test]
    fn every_cell_is_as_the_document_says() {
        let heads = STANDINGS.map(|standing| format!("{standing:?}")).join(" | ");
        assert!(DOCUMENT.lines().any(|line| line == format!("| | {heads} |")), "{heads}");
        for request in requests() {
            let wire = api::route::write(&request).unwrap();
            let (_, name) = wire.path.rsplit_once('/').unwrap();
            let words = STANDINGS.map(|standing| word(standing.effect(Verb::of(&request))));
            let row = format!("| `{name}` | {} |", words.join(" | "));
            assert!(DOCUMENT.lines().any(|line| line == row), "docs/api.md lacks this row: {row}");
        }
    }

    #[test]
    fn every_route_has_a_row() {
        assert_eq!(requests().len(), ROUTES.len());
    }

    #[test]
    fn every_refusal_is_declared() {
        const CONTRACT: &str = include_str!("../../../api/openapi/hotbay.yaml");
        let contract = YamlLoader::load_from_str(CONTRACT).unwrap().remove(0);
        for request in requests() {
            let wire = api::route::write(&request).unwrap();
            let (_, name) = wire.path.rsplit_once('/').unwrap();
            let path = contract["paths"][format!("/{name}").as_str()].as_hash().unwrap();
            let (_, answers) = path.front().unwrap();
            for standing in STANDINGS {
                let Err(refusal) = standing.effect(Verb::of(&request)) else { continue };
                let status = refusal.class().0.code().to_string();
                let declared = &answers["responses"][status.as_str()];
                assert!(!declared.is_badvalue(), "{name} {standing:?} {status}");
            }
        }
    }

    #[test]
    fn no_stage_is_an_error_of_the_host() {
        for standing in STANDINGS {
            for verb in requests().iter().map(Verb::of) {
                let status = standing.effect(verb).err().map(|refusal| refusal.class().0);
                assert_ne!(status, Some(Status::Internal), "{verb:?} {standing:?}");
            }
        }
    }
}
