//! What the host says of a function: that it has failed, and that it is wanted
//! back. Each comes as the count of an eventfd that the kernel writes.

use std::io;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::irq;
use crate::vfio::sys::device::{Device, Notice};

/// One function's notices. They end when the function is closed; what was said
/// before can still be taken.
#[derive(Debug, Default)]
pub struct Notices {
    failed: Option<EventFd>,
    wanted: Option<EventFd>,
}

/// What has been said since it was last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// How many errors of the device PCI Express has reported.
    pub errors: u64,
    /// The host wants the function back. It goes on saying so until it has it.
    pub wanted: bool,
}

impl Notices {
    /// Listens to what `device` has.
    pub fn listen(device: &Device) -> io::Result<Self> {
        let listen = |notice| -> io::Result<Option<EventFd>> {
            let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
            Ok(device.listen(notice, &event)?.then_some(event))
        };
        Ok(Self { failed: listen(Notice::Failed)?, wanted: listen(Notice::Wanted)? })
    }

    /// What to wait for: readable when there is something to take.
    pub fn descriptors(&self) -> impl Iterator<Item = &EventFd> {
        [&self.failed, &self.wanted].into_iter().flatten()
    }

    /// Takes what has been said.
    pub fn take(&self) -> Said {
        let count = |event: &Option<EventFd>| event.as_ref().and_then(irq::take);
        Said { errors: count(&self.failed).unwrap_or(0), wanted: count(&self.wanted).is_some() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> EventFd {
        EventFd::new(EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn errors_are_counted_and_a_repeated_wish_is_one() {
        let notices = Notices { failed: Some(event()), wanted: Some(event()) };
        let (failed, wanted) = (notices.failed.as_ref().unwrap(), notices.wanted.as_ref().unwrap());
        failed.write(2).unwrap();
        wanted.write(3).unwrap();

        assert_eq!(notices.take(), Said { errors: 2, wanted: true });
        assert_eq!(notices.take(), Said::default());
    }

    #[test]
    fn function_without_notices_says_nothing() {
        let notices = Notices::default();

        assert_eq!(notices.descriptors().count(), 0);
        assert_eq!(notices.take(), Said::default());
    }
}
