//! What the outside is told of the VM while it lives (`--event-monitor`, `vm.events`):
//! notices, turned into Cloud Hypervisor's JSON here and nowhere else.
//!
//! Not to be confused with [`crate::events`], which wake the event loop. Whoever
//! has a [`Monitor`] gives notice and goes on: a thread writes ([`writer`]), and
//! what a slow reader leaves no room for is dropped, counted and said.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use api::mailbox::Reply;
use api::schema::events::Follow;
use serde::Serialize;

mod feed;
mod place;
mod sys;
mod writer;

use self::feed::Feed;
pub use self::place::{OpenError, open};
pub use self::writer::Writer;

/// Something that happened to the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice<'a> {
    /// The process serves.
    Starting,
    /// The process ends; there is no VM any more.
    Ending,
    /// So many notices were dropped here, because they were read too slowly.
    Dropped(u64),
    /// The machine is being built.
    Booting,
    /// It could not be; the VM is as it was created.
    BootFailed(Failure<'a>),
    /// Its guest runs.
    Booted,
    /// A worker warms so many bytes of RAM in the background.
    Warming(u64),
    /// It has.
    Warmed(u64),
    /// It could not, for this reason.
    WarmFailed(&'a str),
    /// The vCPUs were called out of the guest.
    Pausing,
    /// They are out.
    Paused,
    /// They are sent back.
    Resuming,
    /// They are in the guest again.
    Resumed,
    /// The guest is being started afresh.
    Rebooting,
    /// It runs again.
    Rebooted,
    /// The machine is gone; the configuration is left.
    Shutdown,
    /// The configuration is gone too.
    Deleted,
    /// Something happened to the device with this id.
    Device(&'a str, DeviceNotice<'a>),
}

/// Something that happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceNotice<'a> {
    /// A worker builds it; its path on the host.
    Adding(&'a str),
    /// How far that has come: what is being done, and how many of how many bytes of
    /// RAM are mapped for it.
    Progress {
        /// What is being done.
        phase: &'a str,
        /// Bytes mapped.
        done: u64,
        /// Bytes to map; 0 when they are already.
        total: u64,
    },
    /// The guest can see it, at this address.
    Added(&'a str),
    /// There is no such device after all.
    AddFailed(Failure<'a>),
    /// The guest was asked to let go.
    Removing,
    /// The guest has not let go for a while; it still may.
    TimedOut,
    /// It is taken from the guest, which was not waited for.
    Forced,
    /// The host has it back, and its address in the guest is free.
    Removed(&'a str),
    /// The host wants it back; the guest is asked to let go.
    Wanted,
    /// The host has reported so many errors of the device by now (AER).
    HostError(u64),
    /// It does not answer: the first access that failed, and why.
    Failing(&'a str),
    /// It could not be reset: why.
    ResetFailed(&'a str),
}

/// Why something failed, as a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// One of [`api::request::code`].
    pub code: &'a str,
    /// The chain of causes.
    pub message: &'a str,
}

/// Takes notices and never waits. Clones lead to the same place. Clients can always ask
/// for what it was told; it is written only if there is a [`Writer`].
#[derive(Clone, Debug)]
pub struct Monitor {
    start: Instant,
    feed: Arc<Feed>,
    outlet: Option<Arc<Outlet>>,
}

/// To where notices are written.
#[derive(Debug)]
struct Outlet {
    queue: SyncSender<writer::Message>,
    /// Notices dropped since one last went through.
    dropped: AtomicU64,
}

impl Default for Monitor {
    fn default() -> Self {
        Self { start: Instant::now(), feed: Arc::default(), outlet: None }
    }
}

impl Monitor {
    fn to(queue: SyncSender<writer::Message>) -> Self {
        let outlet = Outlet { queue, dropped: AtomicU64::new(0) };
        Self { outlet: Some(Arc::new(outlet)), ..Self::default() }
    }

    /// Gives notice.
    pub fn tell(&self, notice: Notice<'_>) {
        let timestamp = self.start.elapsed();
        self.feed.add(notice, timestamp);
        if let Some(outlet) = &self.outlet {
            outlet.tell(notice, timestamp);
        }
    }

    /// Tells a client what it has not heard yet, at once or when there is something.
    pub fn follow(&self, what: Follow, reply: Reply) {
        self.feed.follow(what, reply);
    }

    /// Answers clients who have waited long enough; how long until this is to be called
    /// again, if there are others.
    pub fn expire(&self) -> Option<Duration> {
        self.feed.expire()
    }

    /// Lets no client wait any more: the process ends.
    pub fn end(&self) {
        self.feed.end();
    }

    /// Gives notice of a device.
    pub fn tell_of(&self, id: &str, notice: DeviceNotice<'_>) {
        self.tell(Notice::Device(id, notice));
    }
}

impl Outlet {
    fn tell(&self, notice: Notice<'_>, timestamp: Duration) {
        let missing = self.dropped.load(Ordering::Relaxed);
        // Where some are missing, that is said first.
        let told = missing == 0 || self.put(Notice::Dropped(missing), timestamp);
        if told {
            self.dropped.fetch_sub(missing, Ordering::Relaxed);
        }
        if !(told && self.put(notice, timestamp))
            && self.dropped.fetch_add(1, Ordering::Relaxed) == 0
        {
            log::warn!("the event monitor is read too slowly: events are dropped");
        }
    }

    /// Queues `notice`; false when there is no room.
    fn put(&self, notice: Notice<'_>, timestamp: Duration) -> bool {
        let text = text(notice, timestamp);
        // Where nobody listens any more, the writer has said why.
        !matches!(self.queue.try_send(writer::Message::Text(text)), Err(TrySendError::Full(_)))
    }
}

/// An event as Cloud Hypervisor spells it.
#[derive(Serialize)]
struct Event<'a> {
    /// Since the process began.
    timestamp: Duration,
    source: &'static str,
    event: &'static str,
    /// All values are text, as in Cloud Hypervisor.
    properties: Option<Properties<'a>>,
}

type Properties<'a> = BTreeMap<&'static str, Cow<'a, str>>;

/// One line of JSON, and the empty line that ends an event.
fn text(notice: Notice<'_>, timestamp: Duration) -> String {
    let (source, event, properties) = notice.parts();
    let properties: Properties<'_> = properties.into_iter().collect();
    let properties = Some(properties).filter(|properties| !properties.is_empty());
    let event = Event { timestamp, source, event, properties };
    let json = serde_json::to_string(&event).expect("text and numbers are always JSON");
    json + "\n\n"
}

type Parts<'a> = (&'static str, &'static str, Vec<(&'static str, Cow<'a, str>)>);

impl<'a> Notice<'a> {
    /// Source, name and properties.
    fn parts(self) -> Parts<'a> {
        let vm = |name| ("vm", name, Vec::new());
        match self {
            Self::Starting => ("vmm", "starting", Vec::new()),
            Self::Ending => ("vmm", "shutdown", Vec::new()),
            Self::Dropped(count) => {
                ("vmm", "events-dropped", vec![("count", count.to_string().into())])
            }
            Self::Booting => vm("booting"),
            Self::BootFailed(failure) => ("vm", "boot-failed", failure.properties()),
            Self::Booted => vm("booted"),
            Self::Warming(bytes) => ("vm", "memory-warming", bytes_total(bytes)),
            Self::Warmed(bytes) => ("vm", "memory-warmed", bytes_total(bytes)),
            Self::WarmFailed(message) => {
                ("vm", "memory-warm-failed", vec![("message", message.into())])
            }
            Self::Pausing => vm("pausing"),
            Self::Paused => vm("paused"),
            Self::Resuming => vm("resuming"),
            Self::Resumed => vm("resumed"),
            Self::Rebooting => vm("rebooting"),
            Self::Rebooted => vm("rebooted"),
            Self::Shutdown => vm("shutdown"),
            Self::Deleted => vm("deleted"),
            Self::Device(id, notice) => {
                let (name, mut properties) = notice.parts();
                properties.push(("id", id.into()));
                ("vm", name, properties)
            }
        }
    }
}

impl<'a> DeviceNotice<'a> {
    fn parts(self) -> (&'static str, Vec<(&'static str, Cow<'a, str>)>) {
        match self {
            Self::Adding(path) => ("device-adding", vec![("path", path.into())]),
            Self::Progress { phase, done, total } => {
                let bytes = [("bytes_done", done), ("bytes_total", total)];
                let bytes = bytes.map(|(name, count)| (name, count.to_string().into()));
                ("device-progress", [("phase", phase.into())].into_iter().chain(bytes).collect())
            }
            Self::Added(bdf) => ("device-added", vec![("bdf", bdf.into())]),
            Self::AddFailed(failure) => ("device-add-failed", failure.properties()),
            Self::Removing => ("device-removing", Vec::new()),
            Self::TimedOut => ("device-remove-timed-out", Vec::new()),
            Self::Forced => ("device-remove-forced", Vec::new()),
            Self::Removed(bdf) => ("device-removed", vec![("bdf", bdf.into())]),
            Self::Wanted => ("device-wanted-back", Vec::new()),
            Self::HostError(count) => {
                ("device-host-error", vec![("count", count.to_string().into())])
            }
            Self::Failing(access) => ("device-failing", vec![("access", access.into())]),
            Self::ResetFailed(error) => ("device-reset-failed", vec![("error", error.into())]),
        }
    }
}

impl<'a> Failure<'a> {
    fn properties(self) -> Vec<(&'static str, Cow<'a, str>)> {
        vec![("code", self.code.into()), ("message", self.message.into())]
    }
}

fn bytes_total(bytes: u64) -> Vec<(&'static str, Cow<'static, str>)> {
    vec![("bytes_total", bytes.to_string().into())]
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
