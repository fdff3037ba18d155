//! What answers in the BAR: registers, interrupts and notifications, brought together
//! (virtio 1.2, 4.1.4).

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use crate::io::Access;
use crate::irq::Vectors;
use crate::virtio::desk::{Desk, Ready};
use crate::virtio::interrupts::{Interrupts, NO_VECTOR, Source};
use crate::virtio::layout::{NOTIFY_STEP, Part};
use crate::virtio::registers::{Effect, Field, NEEDS_RESET, Registers, Setup};
use crate::virtio::worker::{Trouble, Worker};
use crate::virtio::{Device, Memory};

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// The registers behind the BAR.
///
/// Its one lock, around the registers, is held while interrupts' and desks' locks are
/// taken; a worker never takes it.
pub(super) struct Transport {
    device: Arc<dyn Device>,
    registers: Mutex<Registers>,
    interrupts: Arc<Interrupts>,
    desks: Box<[Arc<Desk>]>,
    trouble: Arc<Trouble>,
    memory: Memory,
    /// Counts changes of the device's configuration (4.1.4.3.1).
    generation: AtomicU8,
    /// Notifications that took an exit, having no doorbell.
    trapped: AtomicU64,
}

impl Transport {
    /// As after power-on, and the workers that it needs: one a queue.
    pub(super) fn new(
        device: Arc<dyn Device>,
        vectors: Box<dyn Vectors>,
        memory: Memory,
    ) -> io::Result<(Self, Vec<Worker>)> {
        let registers = Registers::new(device.features() | EVENT_IDX | INDIRECT, device.queues());
        let count = device.queues().len();
        let interrupts = Arc::new(Interrupts::new(vectors, count));
        let desk = |queue| {
            let backend = device.backend(queue);
            Desk::new(backend.map(|backend| Arc::clone(&backend.events(queue).kick))).map(Arc::new)
        };
        let desks = (0..count).map(desk).collect::<io::Result<_>>()?;
        let trouble = Arc::<Trouble>::default();
        let registers = Mutex::new(registers);
        let (trapped, generation) = (AtomicU64::new(0), AtomicU8::new(0));
        let transport =
            Self { device, registers, interrupts, desks, trouble, memory, generation, trapped };
        let workers = (0..count).map(|index| transport.worker(index)).collect();
        Ok((transport, workers))
    }

    fn worker(&self, index: usize) -> Worker {
        Worker {
            device: Arc::clone(&self.device),
            index,
            desk: Arc::clone(&self.desks[index]),
            interrupts: Arc::clone(&self.interrupts),
            trouble: Arc::clone(&self.trouble),
            memory: self.memory.clone(),
        }
    }

    pub(super) fn device(&self) -> &dyn Device {
        &*self.device
    }

    pub(super) fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Guest writes MSI-X message control.
    pub(super) fn write_control(&self, control: u16) {
        self.interrupts.write_control(control);
        self.desks.iter().for_each(|desk| desk.listens_elsewhere());
    }

    /// What a notification of each queue is to write, in order.
    pub(super) fn bells(&self) -> impl Iterator<Item = &Arc<EventFd>> {
        self.desks.iter().map(|desk| desk.notified())
    }

    /// The device's configuration is another one now; the driver is told.
    pub(super) fn configuration_changes(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.interrupts.signal(Source::Configuration);
    }

    /// What the transport has to count, by name.
    pub(super) fn counters(&self) -> [(&'static str, u64); 3] {
        [
            ("malformed_requests", self.trouble.malformed.load(Ordering::Relaxed)),
            ("broken_queues", self.trouble.breaks.load(Ordering::Relaxed)),
            ("trapped_notifications", self.trapped.load(Ordering::Relaxed)),
        ]
    }

    /// As after power-on. Waits for requests under way: not for a vCPU.
    pub(super) fn reset(&self) {
        self.desks.iter().for_each(|desk| desk.stop());
        self.desks.iter().for_each(|desk| desk.wait_until_quiet());
        self.forget(&mut self.lock());
        self.interrupts.reset();
    }

    /// The workers return, after the requests that they are doing.
    pub(super) fn end(&self) {
        self.desks.iter().for_each(|desk| desk.end());
    }

    fn read_common(&self, offset: u64, data: &mut [u8]) {
        let Some(field) = Field::at(offset, data.len()) else { return data.fill(0xff) };
        let mut registers = self.lock();
        let value = if let Some(source) = vector_of(field, &registers) {
            self.interrupts.mapped(source).into()
        } else if field == Field::Generation {
            self.generation.load(Ordering::SeqCst).into()
        } else if field == Field::Status {
            self.finish_reset(&mut registers);
            let broken = self.trouble.broken.load(Ordering::SeqCst);
            registers.read(field) | if broken { NEEDS_RESET.into() } else { 0 }
        } else {
            registers.read(field)
        };
        let bytes = value.to_le_bytes();
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let Some(field) = Field::at(offset, data.len()) else { return };
        let value = data.iter().rev().fold(0, |value: u32, byte| value << 8 | u32::from(*byte));
        let mut registers = self.lock();
        if let Some(source) = vector_of(field, &registers) {
            self.interrupts.map(source, u16::try_from(value).unwrap_or(NO_VECTOR));
            if let Source::Queue(queue) = source {
                self.desks.get(queue).into_iter().for_each(|desk| desk.listens_elsewhere());
            }
            return;
        }
        match registers.write(field, value) {
            Some(Effect::Activate) => self.activate(&registers),
            Some(Effect::Reset) => {
                self.desks.iter().for_each(|desk| desk.stop());
                self.finish_reset(&mut registers);
            }
            None => {}
        }
    }

    /// Hands every queue that is enabled to its worker. One that cannot work breaks
    /// the device, and the driver is told so.
    fn activate(&self, registers: &Registers) {
        let features = registers.features();
        let queues = self.desks.iter().zip(registers.queues());
        for (index, (desk, (most, setup))) in queues.enumerate() {
            if !setup.enabled {
                continue;
            }
            match self.queue(most, setup, features) {
                Some(queue) => desk.serve(Ready { queue, features }),
                None => {
                    let why = format_args!("not in the RAM, or not aligned: {setup:x?}");
                    self.trouble.breaks(index, &why);
                    self.interrupts.signal(Source::Configuration);
                }
            }
        }
    }

    /// A queue as its worker uses it: its three parts aligned (2.7) and in the RAM.
    fn queue(&self, most: u16, setup: &Setup, features: u64) -> Option<Queue> {
        let entries = u64::from(setup.size);
        // With the two bytes for event indices at the end of each ring.
        let parts = [
            (setup.descriptors, 16 * entries),
            (setup.driver, 6 + 2 * entries),
            (setup.device, 6 + 8 * entries),
        ];
        let inside = |(start, size): (u64, u64)| {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            self.memory.check_range(GuestAddress(start), size)
        };
        // The crate takes a ring at address zero for one that was never set.
        if setup.driver == 0 || !parts.into_iter().all(inside) {
            return None;
        }
        let mut queue = Queue::new(most).ok()?;
        queue.try_set_size(setup.size).ok()?;
        queue.try_set_desc_table_address(GuestAddress(setup.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(setup.driver)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(setup.device)).ok()?;
        queue.set_event_idx(features & EVENT_IDX != 0);
        queue.set_ready(true);
        Some(queue)
    }

    /// Completes a reset that the driver has asked for, once no worker has a queue.
    fn finish_reset(&self, registers: &mut Registers) {
        if registers.is_resetting() && self.desks.iter().all(|desk| desk.is_quiet()) {
            self.forget(registers);
            self.interrupts.forget_mapping();
        }
    }

    fn forget(&self, registers: &mut Registers) {
        registers.reset();
        self.device.forget();
        self.trouble.broken.store(false, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose vector `field` is, if it is one; vectors are the interrupts' own.
fn vector_of(field: Field, registers: &Registers) -> Option<Source> {
    if field == Field::ConfigVector {
        return Some(Source::Configuration);
    }
    let queue = || Source::Queue(registers.selected().unwrap_or(usize::MAX));
    (field == Field::QueueVector).then(queue)
}

impl Access for Transport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match Part::at(offset) {
            Some((Part::Common, at)) => self.read_common(at, data),
            Some((Part::Isr, 0)) => {
                data.fill(0);
                let status = self.interrupts.take_isr();
                data.first_mut().into_iter().for_each(|byte| *byte = status);
            }
            Some((Part::Device, at)) => {
                let configuration = self.device.configuration();
                let byte = |at: u64| configuration.get(usize::try_from(at).ok()?).copied();
                (at..).zip(data).for_each(|(at, to)| *to = byte(at).unwrap_or(0));
            }
            Some((Part::Table, at)) => self.interrupts.read_table(at, data),
            Some((Part::Pending, at)) => self.interrupts.read_pending(at, data),
            Some((Part::Isr | Part::Notify, _)) | None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match Part::at(offset) {
            Some((Part::Common, at)) => self.write_common(at, data),
            // As good as a doorbell, only slower; the address says which queue.
            Some((Part::Notify, at)) => {
                self.trapped.fetch_add(1, Ordering::Relaxed);
                let index = usize::try_from(at / NOTIFY_STEP).unwrap_or(usize::MAX);
                self.desks.get(index).into_iter().for_each(|desk| desk.notify());
            }
            Some((Part::Table, at)) => self.interrupts.write_table(at, data),
            Some((Part::Device, at)) => self.device.configure(at, data),
            Some((Part::Isr | Part::Pending, _)) | None => {}
        }
    }
}
