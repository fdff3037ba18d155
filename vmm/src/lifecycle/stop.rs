//! A machine is taken apart on a worker: a device's close resets it, which takes
//! 100 ms, and workers under way are waited for. The event loop serves on.

use std::thread::{Builder, JoinHandle};

use api::mailbox::Reply;
use api::request::{Answer, Response};

use super::{Stage, Vm, Vmm};
use crate::events::Poster;
use crate::hotplug::{Built, Finished};
use crate::monitor::Notice;

/// Bytes of the worker's stack.
const STACK: usize = 256 << 10;

/// A machine on its way out. Dropping this waits until it is gone.
pub(crate) struct Stopping {
    workers: Vec<JoinHandle<()>>,
    /// Workers that have not said yet that they are done.
    busy: usize,
    then: Then,
    /// Who waits for it, and what they are told then.
    waiting: Vec<(Reply, Answer)>,
    finished: Poster<Finished>,
}

/// What is left of a VM whose machine is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Its configuration, as it was created: it could not boot.
    Created,
    /// Its configuration, with the devices that the guest had.
    Shutdown,
    /// Nothing.
    Forgotten,
}

impl Stopping {
    fn new(finished: &Poster<Finished>, then: Then) -> Self {
        let finished = finished.clone();
        Self { workers: Vec::new(), busy: 0, then, waiting: Vec::new(), finished }
    }

    /// Whether the VM will be as it was created, since it has never run.
    pub(super) fn never_ran(&self) -> bool {
        self.then == Then::Created
    }

    /// Waits for nobody: what is left is the kernel's to give back, at the end of
    /// the process.
    pub(super) fn abandon(&mut self) {
        self.workers.clear();
    }

    /// Drops `part` on a worker. It keeps the event loop's list of calls, and
    /// needs what the event loop would need.
    fn take_apart(&mut self, part: impl Send + 'static) {
        let finished = self.finished.clone();
        let body = move || {
            drop(part);
            finished.post(Finished::Stopped);
        };
        self.busy += 1;
        let worker = Builder::new().name("worker".to_owned()).stack_size(STACK).spawn(body);
        match worker {
            Ok(worker) => self.workers.push(worker),
            Err(error) => {
                // Taken apart by the closure's own drop, here and now.
                log::error!("a machine was taken apart on the event loop: {error}");
                self.finished.post(Finished::Stopped);
            }
        }
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                log::error!("a worker has panicked");
            }
        }
    }
}

impl Vmm {
    /// Stops the guest and takes the machine apart; the configuration stays, with
    /// the devices that the guest had. `reply` is answered when all is given back.
    pub fn shutdown(&mut self, reply: Reply) {
        self.stop(Then::Shutdown, Some((reply, Ok(Response::Done))));
    }

    /// Stops the guest, if it runs, and forgets the VM; `reply` is answered when
    /// all is given back.
    pub fn delete(&mut self, reply: Reply) {
        self.clear(Some(reply));
    }

    /// Forgets the VM, whatever it does; `reply` is answered when all is given back.
    pub(super) fn clear(&mut self, reply: Option<Reply>) {
        let waiting = reply.map(|reply| (reply, Ok(Response::Done)));
        match self.vm.as_mut().map(|vm| &mut vm.stage) {
            Some(Stage::Stopping(stopping)) => {
                stopping.then = Then::Forgotten;
                stopping.waiting.extend(waiting);
            }
            Some(Stage::Created | Stage::Shutdown) | None => {
                self.forget();
                waiting.into_iter().for_each(|(reply, answer)| reply.send(answer));
            }
            Some(
                Stage::Starting(..)
                | Stage::Running(_)
                | Stage::Pausing(..)
                | Stage::Paused(..)
                | Stage::Rebooting(..),
            ) => self.stop(Then::Forgotten, waiting),
        }
    }

    /// Has the machine taken apart. Who waits for a boot, a pause or a reboot is told that
    /// there will be none.
    pub(super) fn stop(&mut self, then: Then, waiting: Option<(Reply, Answer)>) {
        let Some(vm) = &mut self.vm else { return };
        if let Some(machine) = vm.stage.machine() {
            vm.spec.devices = machine.bay.specs();
        }
        let Some(machine) = vm.stage.take_machine() else { return };
        for fd in machine.watched() {
            self.watch.remove(fd);
        }
        let mut stopping = Stopping::new(&self.finished_poster, then);
        stopping.waiting.extend(waiting);
        stopping.take_apart(machine);
        vm.stage = Stage::Stopping(stopping);
    }

    /// A device that came too late for its machine goes the same way.
    pub(super) fn built_too_late(&mut self, built: Built) {
        if let Some(Vm { stage: Stage::Stopping(stopping), .. }) = &mut self.vm {
            stopping.take_apart(built);
        }
    }

    /// A worker is done. After the last one the machine is gone, and with it what
    /// its threads still had to say.
    pub(super) fn stopped(&mut self) {
        let Some(Vm { stage: stage @ Stage::Stopping(_), .. }) = &mut self.vm else { return };
        let Stage::Stopping(mut stopping) = stage.take() else { return };
        stopping.busy -= 1;
        if stopping.busy > 0 {
            *stage = Stage::Stopping(stopping);
            return;
        }
        match stopping.then {
            Then::Created => *stage = Stage::Created,
            Then::Shutdown => self.monitor.tell(Notice::Shutdown),
            Then::Forgotten => {
                self.monitor.tell(Notice::Shutdown);
                self.forget();
            }
        }
        self.inbox.drain();
        let waiting = std::mem::take(&mut stopping.waiting);
        // Joined before anybody is told.
        drop(stopping);
        waiting.into_iter().for_each(|(reply, answer)| reply.send(answer));
    }

    /// There is no VM any more. At the end of the process that goes without saying.
    fn forget(&mut self) {
        if self.vm.take().is_some() && self.end.is_none() {
            self.monitor.tell(Notice::Deleted);
        }
    }
}
