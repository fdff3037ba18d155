//! What the host says of devices, and what goes wrong with them: kept for
//! `vm.info`, told to the monitor, and acted on where there is something to do.

use std::time::Instant;

use devices::vfio::health::News;
use devices::vfio::notices::Said;

use super::{Bay, Device};
use crate::config::device::DeviceId;
use crate::monitor::DeviceNotice;

/// What the host has said of a device so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    /// Errors of the device that the host has reported.
    pub(super) errors: u64,
    /// Since when the host wants it back.
    pub(super) wanted: Option<Instant>,
}

impl Heard {
    /// Counts `more` errors; returns whether that is to be told. A device can fail
    /// as often as its guest likes, so each time it is twice as many.
    fn counts(&mut self, more: u64) -> bool {
        let before = self.errors.checked_ilog2();
        self.errors = self.errors.saturating_add(more);
        self.errors.checked_ilog2() != before
    }

    /// The host wants the device back; returns whether that is new.
    fn is_wanted(&mut self, now: Instant) -> bool {
        let new = self.wanted.is_none();
        self.wanted.get_or_insert(now);
        new
    }
}

impl Bay {
    /// Takes what the host and the functions have said. Call it when the
    /// descriptor of [`super::Host::notices`] is readable.
    pub fn take_notices(&mut self) {
        // Whose they are does not matter: there are few devices, and each is asked.
        self.host.notices.ready();
        let ids: Vec<DeviceId> = self.devices.keys().cloned().collect();
        ids.iter().for_each(|id| self.hear(id));
    }

    /// Hears what is said of one device, if the guest has it.
    pub(super) fn hear(&mut self, id: &DeviceId) {
        let Some(device) = self.devices.get_mut(id) else { return };
        let Some(function) = device.function().and_then(|function| function.passthrough()) else {
            return;
        };
        let (said, news) = (function.notices().take(), function.health().take_news());
        let name = function.name().to_owned();
        for news in &news {
            let notice = match news {
                News::AccessFailed(what) => {
                    log::error!("device {id} ({name}) does not answer: {what}");
                    DeviceNotice::Failing(what)
                }
                News::ResetFailed(why) => {
                    log::error!("device {id} ({name}) was not reset: {why}");
                    DeviceNotice::ResetFailed(why)
                }
            };
            self.monitor.tell_of(id.as_str(), notice);
        }
        self.heed(id, &name, said);
    }

    fn heed(&mut self, id: &DeviceId, name: &str, said: Said) {
        let Some(Device { heard, .. }) = self.devices.get_mut(id) else { return };
        if said.errors > 0 && heard.counts(said.errors) {
            let errors = heard.errors;
            log::error!("device {id} ({name}) has failed: the host has reported {errors} errors");
            self.monitor.tell_of(id.as_str(), DeviceNotice::HostError(errors));
        }
        if said.wanted {
            if heard.is_wanted(Instant::now()) {
                log::warn!("the host wants device {id} ({name}) back: the guest is asked for it");
                self.monitor.tell_of(id.as_str(), DeviceNotice::Wanted);
            }
            let force = false;
            // The guest is asked, or reminded; it cannot fail, for the guest has it.
            let _ = self.begin_removal(id, force);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_when_they_have_doubled() {
        let mut heard = Heard::default();

        let told: Vec<u64> =
            (0..100).filter_map(|_| heard.counts(1).then_some(heard.errors)).collect();

        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(heard.errors, 100);
    }

    #[test]
    fn burst_of_errors_is_told_once() {
        let mut heard = Heard::default();

        assert!(heard.counts(1000));
        assert!(!heard.counts(1));
        assert_eq!(heard.errors, 1001);
    }

    #[test]
    fn wish_is_new_once() {
        let (mut heard, now) = (Heard::default(), Instant::now());

        assert!(heard.is_wanted(now));
        assert!(!heard.is_wanted(now + std::time::Duration::from_secs(10)));
        assert_eq!(heard.wanted, Some(now));
    }
}
