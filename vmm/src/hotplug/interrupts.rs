//! Interrupts as clients see and test them: on a worker, because a function's
//! lock may be held across system calls.

use std::sync::mpsc;

use api::mailbox::Reply;
use api::request::{Fault, Response, Status, code};
use api::schema::interrupts::{
    Backend, DeviceInterrupts, GuestVector, HostError, InterruptMode, LineState, MsiState,
    MsixState, VectorCounts, VectorDelivery, VectorState,
};
use devices::irq::Way;
use devices::vfio::interrupts::{FireError, Mode, Refusal, VectorView, View};
use devices::vfio::sys::device::Index;
use devices::vfio::taken::Taken;

use super::occupant::Occupant;
use super::{AddError, Bay};
use crate::config::device::DeviceId;

/// Why a device's interrupts were not shown, or not tested.
#[derive(Debug, thiserror::Error)]
enum InterruptError {
    /// Nobody has this name.
    #[error("there is no device {0}; vm.info lists those there are")]
    Unknown(DeviceId),
    /// It is on its way in or out.
    #[error("the guest does not have device {0} at the moment; vm.info shows its state")]
    Away(DeviceId),
    /// The guest does not use the vector.
    #[error("a vector fires once the guest's driver has enabled it; vm.interrupts shows those")]
    Off(#[source] FireError),
    /// The host.
    #[error("the host would not do it")]
    Host(#[source] FireError),
}

/// A device that the guest has, and the function's name if it is one of the host's.
struct Present {
    id: DeviceId,
    name: Option<String>,
    function: Occupant,
}

impl Bay {
    /// Answers with the interrupts of one device, or of all that the guest has.
    pub fn show_interrupts(&mut self, id: Option<&DeviceId>, reply: Reply) {
        let found = match id {
            Some(id) => self.present(id).map(|present| vec![present]),
            None => Ok(self.all_present()),
        };
        match found {
            Ok(devices) => self.on_worker("cannot show interrupts", reply, move |reply| {
                let answer = show(&devices);
                // Before the answer: a client that has it may take the device away.
                drop(devices);
                reply.send(Ok(Response::Interrupts(answer)));
            }),
            Err(error) => reply.send(Err(error.fault("cannot show interrupts"))),
        }
    }

    /// Fires `vector` of a device as the device would, and answers.
    pub fn test_interrupt(&mut self, id: &DeviceId, vector: u16, reply: Reply) {
        let asked = format!("cannot test interrupt {vector} of device {id}");
        match self.present(id) {
            Ok(device) => self.on_worker(&asked.clone(), reply, move |reply| {
                let fired = device.function.fire(vector);
                drop(device);
                let fault = |error| InterruptError::from(error).fault(&asked);
                reply.send(fired.map(|()| Response::Done).map_err(fault));
            }),
            Err(error) => reply.send(Err(error.fault(&asked))),
        }
    }

    fn present(&self, id: &DeviceId) -> Result<Present, InterruptError> {
        let device = self.devices.get(id).ok_or_else(|| InterruptError::Unknown(id.clone()))?;
        let function = device.function().ok_or_else(|| InterruptError::Away(id.clone()))?;
        let name = device.function.as_ref().map(|function| function.name().to_owned());
        Ok(Present { id: id.clone(), name, function: function.clone() })
    }

    fn all_present(&self) -> Vec<Present> {
        self.devices.keys().filter_map(|id| self.present(id).ok()).collect()
    }

    /// Has a worker do `job`, which answers. The reply follows the worker, for a job
    /// that cannot be started is gone with all it has.
    pub(super) fn on_worker(
        &mut self,
        asked: &str,
        reply: Reply,
        job: impl FnOnce(Reply) + Send + 'static,
    ) {
        let (sender, receiver) = mpsc::channel();
        let started = self.workers.start(move || {
            if let Ok(reply) = receiver.recv() {
                job(reply);
            }
        });
        match started {
            // The worker waits for it.
            Ok(()) => drop(sender.send(reply)),
            Err(error) => reply.send(Err(AddError::Worker(error).fault(asked))),
        }
    }
}

impl InterruptError {
    fn fault(&self, asked: &str) -> Fault {
        let (status, code) = match self {
            Self::Unknown(_) => (Status::NotFound, code::DEVICE_NOT_FOUND),
            Self::Away(_) => (Status::Busy, code::DEVICE_BUSY),
            Self::Off(_) => (Status::BadRequest, code::DEVICE_VECTOR_OFF),
            Self::Host(_) => (Status::Internal, code::VMM_HOST_FAILED),
        };
        Fault::new(status, code, asked, self)
    }
}

impl From<FireError> for InterruptError {
    fn from(error: FireError) -> Self {
        match error {
            FireError::Off(_) => Self::Off(error),
            FireError::Refused(..) => Self::Host(error),
        }
    }
}

fn show(devices: &[Present]) -> api::schema::interrupts::Interrupts {
    let taken = Taken::read().unwrap_or_else(|error| {
        log::debug!("the host's interrupts cannot be counted: {error}");
        Taken::default()
    });
    let each = devices.iter().map(|Present { id, name, function }| {
        let view = function.interrupts();
        (id.to_string(), describe(&view, |index, vector| taken.of(name.as_ref()?, index, vector)))
    });
    each.collect()
}

/// A view in the API's words; `taken` knows what the host counted.
fn describe(view: &View, taken: impl Fn(Index, u16) -> Option<u64>) -> DeviceInterrupts {
    let index = if view.mode == Mode::Msi { Index::Msi } else { Index::Msix };
    let vectors = view.vectors.iter();
    DeviceInterrupts {
        mode: mode(view.mode),
        host_mode: mode(view.host_mode),
        host_error: view.refusal.map(host_error),
        msix: view.msix.map(|msix| MsixState {
            table_size: msix.table_size,
            enabled: msix.enabled,
            function_masked: msix.function_masked,
        }),
        msi: view.msi.map(|msi| MsiState { capable: msi.capable, in_use: msi.in_use }),
        line: view.line.map(|line| LineState {
            gsi: line.number,
            allowed: line.allowed,
            wired: line.wired,
            host: taken(Index::Intx, 0),
        }),
        vectors: vectors.map(|vector| state(vector, taken(index, vector.vector))).collect(),
    }
}

fn state(view: &VectorView, host: Option<u64>) -> VectorState {
    let &VectorView { vector, guest, pending, delivery, wired, refusal } = view;
    let backend = match delivery.way {
        Way::Detached => Backend::Detached,
        Way::Relayed => Backend::Relayed,
        Way::Routed => Backend::Routed,
    };
    VectorState {
        vector,
        guest: GuestVector {
            address: guest.message.address,
            data: guest.message.data,
            masked: guest.masked,
            pending,
            live: guest.live,
        },
        delivery: VectorDelivery { backend, gsi: delivery.number, wired },
        counts: VectorCounts { relayed: delivery.relayed, host },
        host_error: refusal.map(host_error),
    }
}

fn host_error(refusal: Refusal) -> HostError {
    HostError { errno: refusal.name().into_owned(), message: refusal.to_string() }
}

fn mode(mode: Mode) -> InterruptMode {
    match mode {
        Mode::None => InterruptMode::None,
        Mode::Intx => InterruptMode::Intx,
        Mode::Msi => InterruptMode::Msi,
        Mode::Msix => InterruptMode::Msix,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use devices::irq::{Delivery, Message};
    use devices::pci::msix;
    use devices::vfio::interrupts::{LineView, MsixView};

    use super::*;

    fn view(mode: Mode) -> View {
        let message = Message { address: 0xfee0_1000, data: 0x41 };
        let vector = VectorView {
            vector: 3,
            guest: msix::View { message, masked: false, live: true },
            pending: false,
            delivery: Delivery { way: Way::Routed, number: Some(24), relayed: 2 },
            wired: true,
            refusal: None,
        };
        View {
            mode,
            host_mode: mode,
            refusal: None,
            msix: Some(MsixView { table_size: 5, enabled: true, function_masked: false }),
            msi: None,
            line: Some(LineView { number: 17, allowed: false, wired: false }),
            vectors: vec![vector],
        }
    }

    #[test]
    fn both_sides_of_a_vector_and_its_counts_are_told() {
        let told = describe(&view(Mode::Msix), |index, vector| {
            (index == Index::Msix).then(|| 1000 + u64::from(vector))
        });

        assert_eq!((told.mode, told.host_mode), (InterruptMode::Msix, InterruptMode::Msix));
        let [vector] = &told.vectors[..] else { panic!("{told:?}") };
        assert_eq!(
            (vector.vector, vector.guest.address, vector.guest.data),
            (3, 0xfee0_1000, 0x41)
        );
        let delivery = VectorDelivery { backend: Backend::Routed, gsi: Some(24), wired: true };
        assert_eq!(vector.delivery, delivery);
        assert_eq!(vector.counts, VectorCounts { relayed: 2, host: Some(1003) });
        assert_eq!(told.line.map(|line| (line.gsi, line.host)), Some((17, None)));
    }

    #[test]
    fn counts_are_those_of_the_kind_that_is_on() {
        let told = describe(&view(Mode::Msi), |index, _| (index == Index::Msi).then_some(7));

        assert_eq!(told.vectors[0].counts.host, Some(7));
    }

    #[test]
    fn vector_that_is_off_is_the_clients_mistake_and_a_refusal_the_hosts() {
        let off = InterruptError::from(FireError::Off(3)).fault("cannot test");
        let gone = io::Error::from_raw_os_error(libc::ENODEV);
        let refused = InterruptError::from(FireError::Refused(3, gone)).fault("cannot test");

        assert_eq!((off.status, off.code), (Status::BadRequest, code::DEVICE_VECTOR_OFF));
        assert!(off.chain[2].starts_with("vector 3 is off"), "{off}");
        assert_eq!((refused.status, refused.chain.len()), (Status::Internal, 4));
    }
}
