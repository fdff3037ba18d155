//! RAM becomes warm in the background while the guest runs.

use std::io;

use super::{Vmm, chain};
use crate::hotplug::Finished;
use crate::monitor::Notice;

impl Vmm {
    /// Has a worker warm the RAM of the guest that was just started, if that is
    /// wanted. A guest without it runs as well.
    pub(super) fn begin_to_warm(&mut self) {
        let Some(vm) = &mut self.vm else { return };
        let Some(machine) = vm.stage.booted() else { return };
        if !machine.warming.in_background() {
            return;
        }
        let (boot, finished) = (self.boots, self.finished_poster.clone());
        let done = move |outcome| finished.post(Finished::Warmed(boot, outcome));
        self.monitor.tell(Notice::Warming(machine.warming.level().total));
        if let Err(error) = machine.warming.start(&self.filters, done) {
            self.not_warmed(&error);
        }
    }

    /// A worker has warmed all RAM, or could not; for this boot.
    pub(super) fn warmed(&mut self, boot: u64, outcome: io::Result<()>) {
        let machine = self.vm.as_ref().and_then(|vm| vm.stage.machine());
        let Some(machine) = machine.filter(|_| boot == self.boots) else { return };
        match outcome {
            Ok(()) => {
                let bytes = machine.warming.level().warm;
                log::info!("all {bytes} bytes of RAM are warm");
                self.monitor.tell(Notice::Warmed(bytes));
            }
            Err(error) => self.not_warmed(&error),
        }
    }

    fn not_warmed(&self, error: &io::Error) {
        let why = chain(error);
        log::warn!("RAM is not warmed in the background: {why}");
        self.monitor.tell(Notice::WarmFailed(&why));
    }
}
