//! A machine is taken apart on a worker: a device's close resets it, which takes
//! 100 ms, and workers under way are waited for. The event loop serves on.

use std::thread::{Builder, JoinHandle};

use api::mailbox::Reply;
use api::request::Response;

use super::{Stage, Verb, Vm, Vmm};
use crate::hotplug::Finished;
use crate::machine::Machine;
use crate::monitor::Notice;

/// Bytes of the worker's stack.
const STACK: usize = 256 << 10;

/// A machine on its way out. Dropping this waits until it is gone.
pub(crate) struct Stopping {
    worker: Option<JoinHandle<()>>,
    /// Whether the configuration goes too.
    forget: bool,
    /// Who waits for it.
    replies: Vec<Reply>,
}

impl Drop for Stopping {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take()
            && worker.join().is_err()
        {
            log::error!("a worker has panicked");
        }
    }
}

impl Vmm {
    /// Stops the guest and takes the machine apart; the configuration stays, with
    /// the devices that the guest had. `reply` is answered when all is given back.
    pub fn shutdown(&mut self, reply: Reply) {
        match self.effect(Verb::Shutdown) {
            Ok(_) => self.stop(false, reply),
            Err(refusal) => reply.send(Err(refusal.fault("cannot shut the VM down"))),
        }
    }

    /// Stops the guest, if it runs, and forgets the VM; `reply` is answered when
    /// all is given back.
    pub fn delete(&mut self, reply: Reply) {
        if let Err(refusal) = self.effect(Verb::Delete) {
            return reply.send(Err(refusal.fault("cannot delete the VM")));
        }
        let Some(vm) = &mut self.vm else { return };
        if let Stage::Stopping(stopping) = &mut vm.stage {
            stopping.forget = true;
            return stopping.replies.push(reply);
        }
        if vm.stage.built().is_some() {
            return self.stop(true, reply);
        }
        self.vm = None;
        self.monitor.tell(Notice::Deleted);
        reply.send(Ok(Response::Done));
    }

    fn stop(&mut self, forget: bool, reply: Reply) {
        let Some(vm) = &mut self.vm else { return };
        if let Some(machine) = vm.stage.machine() {
            vm.spec.devices = machine.bay.specs();
        }
        // Who waits for a boot or a pause is told that there will be none.
        let (Stage::Running(machine)
        | Stage::Starting(machine, _)
        | Stage::Pausing(machine, _)
        | Stage::Paused(machine, _)) = vm.stage.take()
        else {
            return;
        };
        for fd in machine.watched() {
            self.watch.remove(fd);
        }
        let worker = self.take_apart(machine);
        self.enter(Stage::Stopping(Stopping { worker, forget, replies: vec![reply] }));
    }

    /// `None` when the host has no thread left: then it is done.
    fn take_apart(&self, machine: Box<Machine>) -> Option<JoinHandle<()>> {
        let finished = self.finished_poster.clone();
        let body = move || {
            drop(machine);
            finished.post(Finished::Stopped);
        };
        // It needs what the event loop would need, and keeps its list of calls.
        let worker = Builder::new().name("worker".to_owned()).stack_size(STACK).spawn(body);
        worker
            .inspect_err(|error| {
                // Taken apart by the closure's own drop, here and now.
                log::error!("a machine was taken apart on the event loop: {error}");
                self.finished_poster.post(Finished::Stopped);
            })
            .ok()
    }

    /// The machine is gone, and with it what its threads still had to say.
    pub(super) fn stopped(&mut self) {
        let Some(Vm { stage, .. }) = &mut self.vm else { return };
        if !matches!(stage, Stage::Stopping(_)) {
            return;
        }
        let Stage::Stopping(mut stopping) = stage.take() else { return };
        self.monitor.tell(Notice::Shutdown);
        if stopping.forget {
            self.vm = None;
            self.monitor.tell(Notice::Deleted);
        }
        self.inbox.drain();
        let replies = std::mem::take(&mut stopping.replies);
        // Joined before anybody is told.
        drop(stopping);
        replies.into_iter().for_each(|reply| reply.send(Ok(Response::Done)));
    }
}
