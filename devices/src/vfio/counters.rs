//! How often a passed-through function cost the host a call.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter, bumped from any thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn bump(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Calls to the kernel on behalf of one function.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reads of configuration space that reached the host.
    pub config_reads: Counter,
    /// Writes of configuration space that reached the host.
    pub config_writes: Counter,
    /// Reads of BARs that trapped and reached the host.
    pub region_reads: Counter,
    /// Writes of BARs that trapped and reached the host.
    pub region_writes: Counter,
    /// `VFIO_DEVICE_SET_IRQS` calls.
    pub set_irqs: Counter,
    /// Guest windows opened on BARs.
    pub windows: Counter,
    /// Guest accesses to the MSI-X table and pending bits.
    pub table_accesses: Counter,
    /// Interrupt set-ups that the host refused.
    pub interrupt_failures: Counter,
    /// Accesses that the device should have answered, and the host failed.
    pub access_failures: Counter,
}

impl Counters {
    /// Every counter with its name, as clients see it.
    pub fn list(&self) -> [(&'static str, u64); 9] {
        [
            ("config_reads", self.config_reads.get()),
            ("config_writes", self.config_writes.get()),
            ("region_reads", self.region_reads.get()),
            ("region_writes", self.region_writes.get()),
            ("set_irqs", self.set_irqs.get()),
            ("windows", self.windows.get()),
            ("table_accesses", self.table_accesses.get()),
            ("interrupt_failures", self.interrupt_failures.get()),
            ("access_failures", self.access_failures.get()),
        ]
    }
}
