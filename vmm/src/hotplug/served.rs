//! A function that another process emulates: connected, with the thread that carries its
//! messages, and built as one of the host's.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use devices::vfio::function::{Opened, Passthrough};
use devices::vfio::interrupts::Choices;
use devices::vfio::room::Others;
use devices::vfio::user::{Carrier, Connection, Server};

use super::build::{Built, Guests};
use super::occupant::{Occupant, last};
use super::roots::Place;
use super::{AddError, Host};
use crate::config::user_device::UserDeviceSpec;
use crate::seccomp::{Filters, Kind};

/// Bytes of its thread's stack.
const STACK: usize = 256 << 10;

/// A function of a server. Fields are in teardown order: it says what it has to say while
/// its messages are still carried.
pub(super) struct Served {
    pub(super) function: Arc<Passthrough>,
    thread: Thread,
}

/// The thread that carries messages. Dropped, it has ended.
struct Thread {
    connection: Arc<Connection>,
    handle: Option<JoinHandle<()>>,
}

/// Connects to the server and asks it what it has.
pub(super) fn build(
    spec: UserDeviceSpec,
    place: Place,
    others: &Others,
    host: &Host,
) -> Result<Built, AddError> {
    let UserDeviceSpec { socket, .. } = spec;
    let failed = |error| AddError::Server(socket.clone(), error);
    let (connection, carrier) = Server::connect(&socket, &host.memory).map_err(failed)?;
    let thread = Thread::start(connection, carrier, &host.filters).map_err(AddError::Worker)?;
    let (server, lent) = Server::greet(&thread.connection).map_err(failed)?;
    let name = socket.display().to_string();
    let opened = Opened::served(server, lent, &name, Arc::clone(&host.bell));
    let opened = opened.map_err(|error| AddError::Open(name.clone(), error))?;
    others.leave_room(&name, &opened.needs(), &place.spaces.apertures)?;
    let Place { address, reservation: place, spaces } = place;
    let guests = Guests { host, address, spaces };
    let (function, relayed) = guests.finish(opened, Choices::default(), &[])?;
    let function = Occupant::Served(Arc::new(Served { function, thread }));
    Ok(Built { function, place, relayed })
}

impl Served {
    /// Waits until nobody else is inside or looks at it, then closes it.
    pub(super) fn close(self) {
        let Self { function, thread } = self;
        drop(last(function));
        drop(thread);
    }
}

impl Thread {
    fn start(
        connection: Arc<Connection>,
        carrier: Carrier,
        filters: &Arc<Filters>,
    ) -> io::Result<Self> {
        let filters = Arc::clone(filters);
        let body = move || match filters.apply(Kind::Carrier) {
            Ok(()) => carrier.run(),
            // Dropped, it says that nobody carries messages.
            Err(error) => log::error!("a vfio-user server is not spoken to: {error}"),
        };
        let handle = Builder::new().name("vfio-user".to_owned()).stack_size(STACK).spawn(body)?;
        Ok(Self { connection, handle: Some(handle) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.connection.end();
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            log::error!("the thread of a vfio-user server has panicked");
        }
    }
}
