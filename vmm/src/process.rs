//! The process from its arguments to its end: who is started in which order,
//! and what each thread may do.
//!
//! What the process may not need any more it gives up while it has one thread. The
//! HTTP thread and the monitor's start while the first thread is unfiltered; then the
//! first thread confines itself and becomes the event loop, so that whatever it
//! starts later (vCPUs, workers) begins inside its list.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use api::cli::hotbay::{HotbayArgs, Seccomp};
use api::descriptors::Fds;
use api::mailbox::{self, Sender};
use api::server::{Address, BindError, Server, Stop};
use log::LevelFilter;

use crate::config::reach;
use crate::lifecycle::{self, Ending, Vmm};
use crate::monitor::{self, Notice, Writer};
use crate::sandbox::{self, Grant, Purpose};
use crate::seccomp::{self, Filters, Kind, Mode};
use crate::{allocator, event_loop, limits, logging, privileges, signals};

/// Bytes of the HTTP thread's stack.
const STACK: usize = 256 << 10;

/// Why the process ends with a failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something it needs for itself.
    #[error("cannot {0}")]
    Start(&'static str, #[source] std::io::Error),
    /// The API socket.
    #[error("cannot serve the API")]
    Bind(#[from] BindError),
    /// Where events go.
    #[error(transparent)]
    Monitor(#[from] monitor::OpenError),
    /// The sandbox.
    #[error("cannot confine the process")]
    Seccomp(#[from] seccomp::Error),
    /// Paths that it does not need.
    #[error("cannot confine the process")]
    Sandbox(#[from] sandbox::Error),
    /// Rights that it does not need.
    #[error("cannot confine the process")]
    Privileges(#[from] privileges::Error),
    /// The VM of the command line, before it could boot.
    #[error(transparent)]
    Vm(#[from] lifecycle::Error),
    /// The event loop.
    #[error(transparent)]
    Loop(#[from] event_loop::Error),
    /// The machine could not go on.
    #[error("{0}")]
    Machine(String),
}

/// Does what the command line asks for, until the process is to end.
pub fn run(args: HotbayArgs) -> Result<(), Error> {
    let HotbayArgs { api_socket, vm, landlock, seccomp, event_monitor, log_file, verbosity } = args;
    // First of all: a descriptor that was passed on has the number it was given.
    let events = event_monitor.as_ref().map(monitor::open).transpose()?;
    let mut vm = vm;
    let cards = vm.iter_mut().flat_map(|vm| vm.net.iter_mut().flatten());
    let mut fds = cards.filter_map(|card| card.fds.as_mut());
    fds.try_for_each(Fds::take_over)
        .map_err(|error| Error::Start("take the descriptors of --net", error))?;
    let level = [LevelFilter::Warn, LevelFilter::Info, LevelFilter::Debug];
    let level = level.get(usize::from(verbosity)).copied().unwrap_or(LevelFilter::Trace);
    let log = logging::start(level, log_file.as_deref())
        .map_err(|error| Error::Start("open the log file", error))?;
    log.into_iter().for_each(seccomp::also_report_to);

    allocator::keep_one_heap();
    limits::raise_descriptors();
    let filters = Arc::new(Filters::new(seccomp.into())?);
    let signals =
        signals::Signals::catch().map_err(|error| Error::Start("catch signals", error))?;
    let (sender, calls) =
        mailbox::mailbox().map_err(|error| Error::Start("make the mailbox", error))?;
    let removed_at_the_end = api_socket.as_ref().and_then(|address| match address {
        Address::Path(path) => Some(Grant::folder("API socket's folder", path, Purpose::Removal)),
        Address::Fd(_) => None,
    });
    let server = api_socket.map(|address| Server::bind(&address)).transpose()?;
    // Not in the log line: its arguments are not looked at unless it is written.
    let given_up = privileges::give_up(limits::raise_locked_memory())?;
    log::info!("{given_up}");
    let http = server.map(|server| Http::start(server, sender, &filters)).transpose()?;

    let written = events.map(|file| Writer::start(file, &filters)).transpose()?;
    let (_writer, monitor) = written.unzip();
    let monitor = monitor.unwrap_or_default();
    monitor.tell(Notice::Starting);

    let mut vmm = Vmm::new(Arc::clone(&filters), monitor.clone())
        .map_err(|error| Error::Start("make the event loop's descriptors", error))?;
    filters.apply(Kind::Main)?;
    removed_at_the_end.into_iter().for_each(|grant| vmm.sandbox.keep(grant));
    match (vm, landlock) {
        (Some(config), _) => {
            vmm.create(config)?;
            vmm.boot(None);
        }
        (None, Some(rules)) => vmm.confine(reach::grants(rules))?,
        (None, None) => {}
    }
    let ending = event_loop::run(vmm, calls, signals);
    monitor.end();
    drop(http);
    monitor.tell(Notice::Ending);
    match ending? {
        Ending::Asked => Ok(()),
        Ending::Failed(reason) => Err(Error::Machine(reason)),
    }
}

/// The HTTP thread. Dropping it lets the last answers out and joins it.
struct Http {
    thread: Option<JoinHandle<()>>,
    stop: Stop,
}

impl Http {
    fn start(
        (server, stop): (Server, Stop),
        machine: Sender,
        filters: &Arc<Filters>,
    ) -> Result<Self, Error> {
        let filters = Arc::clone(filters);
        let confine = move || -> Result<(), Error> {
            sandbox::close_off()?;
            Ok(filters.apply(Kind::Http)?)
        };
        let body = move || match confine() {
            Ok(()) => server.run(&machine),
            Err(error) => log::error!("the API is not served: {}", lifecycle::chain(&error)),
        };
        let thread = Builder::new().name("http".to_owned()).stack_size(STACK).spawn(body);
        let thread = thread.map_err(|error| Error::Start("start the HTTP thread", error))?;
        Ok(Self { thread: Some(thread), stop })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the HTTP thread has panicked");
        }
    }
}

impl From<Seccomp> for Mode {
    fn from(seccomp: Seccomp) -> Self {
        match seccomp {
            Seccomp::True => Self::True,
            Seccomp::False => Self::False,
            Seccomp::Log => Self::Log,
        }
    }
}
