//! What sits in a slot, of whatever kind: a function of the host's, or a device of ours.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use devices::pci;
use devices::vfio::function::Passthrough;
use devices::vfio::interrupts::{FireError, View};
use devices::virtio::balloon::Balloon;
use devices::virtio::function::Function;

use super::served::Served;

/// A device that the guest has, or had until now.
#[derive(Clone)]
pub(super) enum Occupant {
    /// A host function.
    Host(Arc<Passthrough>),
    /// One of ours.
    Own(Arc<Own>),
    /// One that another process emulates.
    Served(Arc<Served>),
}

/// A device of ours, with the threads that serve it.
pub(super) struct Own {
    pub(super) function: Arc<Function>,
    pub(super) threads: Vec<JoinHandle<()>>,
    /// What it is, if a balloon.
    pub(super) balloon: Option<Arc<Balloon>>,
}

impl Occupant {
    /// As the bus has it.
    pub(super) fn on_bus(&self) -> Arc<dyn pci::Function> {
        match self {
            Self::Host(function) => Arc::clone(function) as _,
            Self::Own(own) => Arc::clone(&own.function) as _,
            Self::Served(served) => Arc::clone(&served.function) as _,
        }
    }

    /// The function that is handed on, if it is one: the host's, or a server's.
    pub(super) fn passthrough(&self) -> Option<&Arc<Passthrough>> {
        match self {
            Self::Host(function) => Some(function),
            Self::Served(served) => Some(&served.function),
            Self::Own(_) => None,
        }
    }

    /// The device of ours, if it is one.
    pub(super) fn own(&self) -> Option<&Arc<Own>> {
        match self {
            Self::Host(_) | Self::Served(_) => None,
            Self::Own(own) => Some(own),
        }
    }

    /// The balloon and its function, if it is one.
    pub(super) fn balloon(&self) -> Option<(&Function, &Balloon)> {
        let own = self.own()?;
        Some((&own.function, own.balloon.as_ref()?))
    }

    /// What it has done, or cost, so far.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Host(function) => function.counters().list().to_vec(),
            Self::Served(served) => served.function.counters().list().to_vec(),
            Self::Own(own) => own.function.counters(),
        }
    }

    /// Its interrupts as they are now.
    pub(super) fn interrupts(&self) -> View {
        match self {
            Self::Host(function) => function.interrupts().view(),
            Self::Served(served) => served.function.interrupts().view(),
            Self::Own(own) => own.function.interrupts(),
        }
    }

    /// Fires `vector` as the device would.
    pub(super) fn fire(&self, vector: u16) -> Result<(), FireError> {
        match self {
            Self::Host(function) => function.interrupts().fire(vector),
            Self::Served(served) => served.function.interrupts().fire(vector),
            Self::Own(own) if own.function.fire(vector) => Ok(()),
            Self::Own(_) => Err(FireError::Off(vector)),
        }
    }

    /// Waits until nobody else is inside or looks at it, so that it closes here and not
    /// on a vCPU's thread, then closes it.
    pub(super) fn close(self) {
        match self {
            Self::Host(function) => drop(last(function)),
            Self::Own(own) => drop(last(own)),
            Self::Served(served) => last(served).close(),
        }
    }
}

/// What is left when all others have let go.
pub(super) fn last<T>(shared: Arc<T>) -> T {
    let mut shared = shared;
    loop {
        match Arc::try_unwrap(shared) {
            Ok(last) => return last,
            Err(still) => shared = still,
        }
        thread::yield_now();
    }
}

impl Drop for Own {
    /// Threads first: what they hold is not to be closed by them. The bus has let go, or
    /// never had it, but a vCPU may still be inside.
    fn drop(&mut self) {
        self.function.end();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of a device has panicked");
            }
        }
        while Arc::strong_count(&self.function) > 1 {
            thread::yield_now();
        }
    }
}
