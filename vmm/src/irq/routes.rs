//! The kernel's route table (`KVM_SET_GSI_ROUTING`): which interrupt number
//! means which message. Each commit replaces the table whole, so what can be
//! one commit is one, and an unchanged table is never committed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::irq::Message;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::kvm::insist;
use crate::memory::layout::{IOAPIC_PINS, LAPIC_BASE};

/// Routes that the kernel takes, pins included (`KVM_MAX_IRQ_ROUTES`).
const MOST_ROUTES: u32 = 4096;
/// Entries of the pins: each of the 16 lines of the PICs has one more.
const PIC_LINES: u32 = 16;
const PIC_PINS: u32 = 8;

/// A global system interrupt: the number that the kernel's table is keyed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gsi(u32);

/// The table and its one way to the kernel.
pub struct Routes {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
    /// Numbers that came back since the table was last looked at; beside it, so that
    /// who gives one back waits for no commit.
    freed: Mutex<Vec<Gsi>>,
    count: AtomicUsize,
    commits: AtomicU64,
    irqfds: AtomicU64,
}

/// Routes that the kernel has, and which of their numbers somebody has. A route
/// that nobody has does no harm, for nothing is attached to it, and goes with the
/// next commit.
#[derive(Default)]
pub(super) struct Table {
    kernel: BTreeMap<Gsi, Message>,
    used: BTreeSet<Gsi>,
}

impl Table {
    fn in_use(&self) -> BTreeMap<Gsi, Message> {
        let used = self.kernel.iter().filter(|(number, _)| self.used.contains(number));
        used.map(|(number, message)| (*number, *message)).collect()
    }

    /// Whether the kernel has all of `wanted`, beside whatever else.
    fn has(&self, wanted: &BTreeMap<Gsi, Message>) -> bool {
        wanted.iter().all(|(number, message)| self.kernel.get(number) == Some(message))
    }
}

impl Gsi {
    /// The number itself.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl Routes {
    /// A table with the pins of the interrupt controllers and nothing else, as
    /// the kernel has it after creating them.
    pub fn new(vm: Arc<VmFd>) -> Self {
        let (commits, irqfds) = (AtomicU64::new(0), AtomicU64::new(0));
        let count = AtomicUsize::new(0);
        Self { vm, table: Mutex::default(), freed: Mutex::default(), count, commits, irqfds }
    }

    /// Routes every message in `wanted` with one commit, to the number it comes
    /// with or to the lowest free one, and returns the numbers in order; `None`
    /// for those that no number is left for. A failed commit changes nothing, and
    /// what the kernel has already is not committed again.
    pub fn assign(&self, wanted: &[(Option<Gsi>, Message)]) -> io::Result<Vec<Option<Gsi>>> {
        let mut table = self.lock();
        self.reclaim(&mut table);
        let mut next = table.in_use();
        let mut free = (IOAPIC_PINS..MOST_ROUTES - PIC_LINES).map(Gsi);
        let mut number_for = |(number, message): &(Option<Gsi>, Message)| {
            let number = number.or_else(|| free.find(|free| !next.contains_key(free)))?;
            next.insert(number, *message);
            Some(number)
        };
        let numbers = wanted.iter().map(&mut number_for).collect();
        let used: BTreeSet<Gsi> = next.keys().copied().collect();
        if !table.has(&next) {
            self.commit(&mut table, next)?;
        }
        self.count.fetch_add(used.len() - table.used.len(), Ordering::Relaxed);
        table.used = used;
        Ok(numbers)
    }

    /// Sends one message without a route (`KVM_SIGNAL_MSI`). One that no
    /// processor takes vanishes, as it would on a bus.
    pub fn send(&self, message: Message) {
        if !is_interrupt(message) {
            log::debug!("message {message:x?} is no interrupt");
            return;
        }
        let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
        let msi = kvm_msi {
            address_lo: u32::from_le_bytes([a, b, c, d]),
            address_hi: u32::from_le_bytes([e, f, g, h]),
            data: message.data,
            ..kvm_msi::default()
        };
        if let Err(error) = self.vm.signal_msi(msi) {
            log::debug!("message {message:x?} went nowhere: {error}");
        }
    }

    /// Takes numbers back, without a call to the kernel and without waiting for one.
    /// Nothing may be attached to them any more.
    pub fn free(&self, numbers: &[Gsi]) {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner).extend(numbers);
        self.count.fetch_sub(numbers.len(), Ordering::Relaxed);
    }

    /// Takes numbers back, and out of the kernel's table. Nothing may be attached to
    /// them any more.
    pub fn release(&self, numbers: &[Gsi]) {
        if numbers.is_empty() {
            return;
        }
        self.free(numbers);
        let mut table = self.lock();
        self.reclaim(&mut table);
        let next = table.in_use();
        if let Err(error) = self.commit(&mut table, next) {
            log::error!("routes of a removed device stay until the next change: {error}");
        }
    }

    /// Lets every write to `event` raise `number`; what was written before is
    /// delivered now, once.
    pub fn attach(&self, event: &EventFd, number: Gsi) -> io::Result<()> {
        self.irqfds.fetch_add(1, Ordering::Relaxed);
        Ok(self.vm.register_irqfd(event, number.0)?)
    }

    /// Ends [`Routes::attach`]: on return nothing more is delivered.
    pub fn detach(&self, event: &EventFd, number: Gsi) -> io::Result<()> {
        self.irqfds.fetch_add(1, Ordering::Relaxed);
        Ok(insist(|| self.vm.unregister_irqfd(event, number.0))?)
    }

    /// Message routes at the moment.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is no message route.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `KVM_SET_GSI_ROUTING` calls so far.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// `KVM_IRQFD` calls for message routes so far.
    pub fn irqfds(&self) -> u64 {
        self.irqfds.load(Ordering::Relaxed)
    }

    fn reclaim(&self, table: &mut Table) {
        let mut freed = self.freed.lock().unwrap_or_else(PoisonError::into_inner);
        for number in freed.drain(..) {
            table.used.remove(&number);
        }
    }

    fn commit(&self, table: &mut Table, next: BTreeMap<Gsi, Message>) -> io::Result<()> {
        if table.kernel == next {
            return Ok(());
        }
        let messages = next.iter().map(|(number, message)| message_entry(*number, *message));
        let entries: Vec<_> = pins().chain(messages).collect();
        let routing = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.vm.set_gsi_routing(&routing)?;
        table.kernel = next;
        Ok(())
    }

    /// Held across a commit, so never taken on a vCPU's thread: attaching, detaching
    /// and sending go without it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a message goes to the processors at all (Intel SDM 3A, 12.11.1): a
/// write elsewhere is a write. The kernel would take any address for one.
pub(super) fn is_interrupt(message: Message) -> bool {
    const WINDOW: std::ops::Range<u64> = LAPIC_BASE..LAPIC_BASE + (1 << 20);
    WINDOW.contains(&message.address)
}

/// Every line to its pin of the IOAPIC, the first 16 to the PICs as well
/// (Linux `arch/x86/kvm/irq_comm.c`, the default routing).
fn pins() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let to_ioapic = (0..IOAPIC_PINS).map(|line| pin_entry(line, KVM_IRQCHIP_IOAPIC, line));
    let to_pics = (0..PIC_LINES).map(|line| {
        let chip = if line < PIC_PINS { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
        pin_entry(line, chip, line % PIC_PINS)
    });
    to_ioapic.chain(to_pics)
}

fn pin_entry(gsi: u32, chip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry =
        kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    entry
}

fn message_entry(number: Gsi, message: Message) -> kvm_irq_routing_entry {
    let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
    let mut entry =
        kvm_irq_routing_entry { gsi: number.0, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = u32::from_le_bytes([a, b, c, d]);
    entry.u.msi.address_hi = u32::from_le_bytes([e, f, g, h]);
    entry.u.msi.data = message.data;
    entry
}
