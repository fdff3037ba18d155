//! BARs of a passed-through function, placed in the guest's address spaces.
//!
//! The guest sets memory decoding: every mappable area of every BAR becomes a
//! window (no exit on access), and the BAR as a whole answers traps for the
//! rest. It clears it, or the function loses its memory for another reason: the
//! windows go first, for the kernel takes the pages away.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::io::Access;
use crate::memory::{Window, Windows};
use crate::pci::bar::{self, Apertures, Placement};
use crate::space::{Claim, Space};
use crate::vfio::config::MsixLayout;
use crate::vfio::health::Health;
use crate::vfio::interrupts::Interrupts;
use crate::vfio::sys::device::Device;
use crate::vfio::sys::mmap::Mmap;

/// Granularity of windows.
const PAGE: u64 = 4096;

/// Where a function's BARs can go: the guest's address spaces.
#[derive(Clone)]
pub struct GuestSpaces {
    /// Guest-physical memory.
    pub memory: Arc<Space>,
    /// Port I/O.
    pub io: Arc<Space>,
    /// Windows on host memory.
    pub windows: Arc<dyn Windows>,
    /// What the host bridge forwards.
    pub apertures: Apertures,
}

/// One BAR: what answers in it, and the parts that need no answer. It goes after its
/// placements.
pub struct Bar {
    access: Arc<Trapped>,
    areas: Vec<Area>,
}

/// A mapped part of a BAR.
struct Area {
    offset: u64,
    memory: Mmap,
}

/// All BARs of one function and where they are placed now.
///
/// Fields are in teardown order: placements before what backs them.
pub struct Placements {
    placed: [Option<Placed>; bar::COUNT],
    bars: [Option<Bar>; bar::COUNT],
    spaces: GuestSpaces,
    device: Arc<Device>,
}

/// A BAR at an address. Fields are in teardown order.
struct Placed {
    at: Placement,
    _stay: Stay,
    _windows: Vec<Box<dyn Window>>,
    _claim: Claim,
}

impl Placements {
    /// Nothing placed yet.
    pub fn new(bars: [Option<Bar>; bar::COUNT], spaces: GuestSpaces, device: Arc<Device>) -> Self {
        Self { placed: Default::default(), bars, spaces, device }
    }

    /// Windows of the host bridge.
    pub fn apertures(&self) -> &Apertures {
        &self.spaces.apertures
    }

    /// Takes away what is not where `wanted` says.
    pub fn withdraw(&mut self, wanted: &[Option<Placement>; bar::COUNT]) {
        for (placed, wanted) in self.placed.iter_mut().zip(wanted) {
            if placed.as_ref().map(|placed| placed.at) != *wanted {
                *placed = None;
            }
        }
    }

    /// Puts every BAR where `wanted` says. One that collides with something else
    /// answers nothing until the guest moves it.
    pub fn place(&mut self, wanted: &[Option<Placement>; bar::COUNT]) {
        self.withdraw(wanted);
        for (index, wanted) in wanted.iter().enumerate() {
            let (Some(at), Some(bar), None) = (wanted, &self.bars[index], &self.placed[index])
            else {
                continue;
            };
            match self.put(bar, *at) {
                Ok(placed) => self.placed[index] = Some(placed),
                // At the guest's choice, so no louder: it could fill the log.
                Err(error) => log::debug!("BAR {index} at {:#x}: {error}", at.base),
            }
        }
    }

    fn put(&self, bar: &Bar, at: Placement) -> Result<Placed, crate::space::ClaimError> {
        let (space, areas) = match at.space {
            bar::Space::Io => (&self.spaces.io, &[][..]),
            bar::Space::Memory => (&self.spaces.memory, &bar.areas[..]),
        };
        let stay = Stay::begin(&bar.access.stays);
        let access: Arc<dyn Access> = bar.access.clone();
        let claim = space.claim(at.base, at.size, access)?;
        let windows = areas.iter().filter_map(|area| self.open(at.base, area)).collect();
        Ok(Placed { at, _stay: stay, _windows: windows, _claim: claim })
    }

    /// Opens one window; without it, accesses trap and still work.
    fn open(&self, base: u64, area: &Area) -> Option<Box<dyn Window>> {
        let guest = base + area.offset;
        if !guest.is_multiple_of(PAGE) {
            return None;
        }
        let window = self.spaces.windows.open(guest, area.memory.backing());
        self.device.counters().windows.bump();
        window.inspect_err(|error| log::debug!("no window at {guest:#x}: {error}")).ok()
    }
}

impl Drop for Bar {
    /// Nobody finds it any more, but a vCPU may still be inside an access. It must
    /// not be the last that holds the device: closing is not a vCPU's business.
    fn drop(&mut self) {
        while Arc::strong_count(&self.access) > 1 {
            thread::yield_now();
        }
    }
}

impl Bar {
    /// BAR `index` of `device`, with its mappable areas mapped: all but the pages
    /// of the MSI-X table and pending bits.
    pub fn new(
        index: usize,
        device: &Arc<Device>,
        interrupts: &Arc<Interrupts>,
        health: &Arc<Health>,
        trapped: &[Range<u64>],
    ) -> Self {
        let region = device.region(index).cloned().unwrap_or_default();
        let parts = region.mappable.iter().flat_map(|area| without(area, trapped));
        let map = |part: Range<u64>| {
            let memory = device.map(&region, part.start, part.end - part.start);
            let memory = memory.inspect_err(|e| log::warn!("BAR {index} stays trapped: {e}"));
            Some(Area { offset: part.start, memory: memory.ok()? })
        };
        let areas = parts.filter_map(map).collect();
        let access = Trapped {
            index,
            writable: region.is_writable(),
            device: Arc::clone(device),
            interrupts: Arc::clone(interrupts),
            health: Arc::clone(health),
            stays: Arc::default(),
        };
        Self { access: Arc::new(access), areas }
    }
}

/// Byte ranges of BAR `index` that must trap: whole table and pending bits.
pub fn trapped(layout: Option<MsixLayout>, index: usize) -> Vec<Range<u64>> {
    let Some(layout) = layout else { return Vec::new() };
    let table = layout.table.offset..layout.table.offset + layout.table_size();
    let pending = layout.pending.offset..layout.pending.offset + layout.pending_size();
    let here = [(layout.table.bar, table), (layout.pending.bar, pending)];
    here.into_iter().filter(|(bar, _)| *bar == index).map(|(_, range)| range).collect()
}

/// `area`, cut to whole pages, less every page that a `trapped` range touches.
fn without(area: &Range<u64>, trapped: &[Range<u64>]) -> Vec<Range<u64>> {
    let whole = area.start.next_multiple_of(PAGE)..area.end / PAGE * PAGE;
    let mut parts = vec![whole];
    for hole in trapped {
        let hole = hole.start / PAGE * PAGE..hole.end.next_multiple_of(PAGE);
        parts = parts
            .into_iter()
            .flat_map(|part| {
                [part.start..part.end.min(hole.start), part.start.max(hole.end)..part.end]
            })
            .collect();
    }
    parts.retain(|part| part.start < part.end);
    parts
}

/// How often a BAR has been placed and withdrawn: odd while it is placed.
type Stays = Arc<AtomicU64>;

/// A BAR being placed. Dropped first of all when it is withdrawn, before the
/// device stops decoding: an access that fails then is the guest's own doing.
struct Stay(Stays);

impl Stay {
    fn begin(stays: &Stays) -> Self {
        stays.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(stays))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Answers what no window covers.
struct Trapped {
    index: usize,
    /// The kernel takes writes, which it does not for a ROM.
    writable: bool,
    device: Arc<Device>,
    interrupts: Arc<Interrupts>,
    health: Arc<Health>,
    stays: Stays,
}

impl Trapped {
    /// Does an access that the host may fail. One during which the BAR stayed where
    /// it was should not have failed: the device is at fault.
    fn access(&self, what: fmt::Arguments<'_>, access: impl FnOnce() -> io::Result<()>) -> bool {
        let stay = self.stays.load(Ordering::SeqCst);
        let Err(error) = access() else { return true };
        log::debug!("{what}: {error}");
        let stayed = stay % 2 == 1 && self.stays.load(Ordering::SeqCst) == stay;
        if stayed && !lies_outside(&error) {
            self.device.counters().access_failures.bump();
            self.health.access_failed(what, &error);
        }
        false
    }
}

/// Whether nobody was asked, because there is nothing at that offset: a BAR decodes
/// a power of two, which may be more than the device has.
fn lies_outside(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none()
}

impl Access for Trapped {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if self.interrupts.read_bar(self.index, offset, data) {
            return self.device.counters().table_accesses.bump();
        }
        self.device.counters().region_reads.bump();
        let what = format_args!("read of BAR {} at {offset:#x}", self.index);
        if !self.access(what, || self.device.read(self.index, offset, data)) {
            data.fill(0xff);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if self.interrupts.write_bar(self.index, offset, data) {
            return self.device.counters().table_accesses.bump();
        }
        if !self.writable {
            return;
        }
        self.device.counters().region_writes.bump();
        let what = format_args!("write of BAR {} at {offset:#x}", self.index);
        self.access(what, || self.device.write(self.index, offset, data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_the_table_are_cut_out_and_only_those() {
        assert_eq!(without(&(0..0x10000), &[0x3000..0x3050]), [0..0x3000, 0x4000..0x10000]);
        assert_eq!(
            without(&(0..0x4000), &[0..0x50, 0x2000..0x2008]),
            [0x1000..0x2000, 0x3000..0x4000]
        );
    }

    #[test]
    fn table_that_fills_its_bar_leaves_nothing() {
        assert_eq!(without(&(0..0x1000), &[0x10..0x20]), []);
    }

    #[test]
    fn part_of_a_page_is_never_mapped() {
        assert_eq!(without(&(0..0x800), &[]), []);
        assert_eq!(without(&(0x800..0x2800), &[]), [0x1000..0x2000]);
    }

    #[test]
    fn table_in_another_bar_cuts_nothing() {
        assert_eq!(without(&(0..0x2000), &[]), [0..0x2000]);
    }

    /// Interrupts that answer for no part of any BAR.
    fn no_interrupts(device: &Arc<Device>) -> Arc<Interrupts> {
        use crate::irq::testing::NoVectors;
        use crate::vfio::interrupts::{Abilities, Choices};
        let vectors = Box::new(NoVectors);
        let (none, choices) = (Abilities::default(), Choices::default());
        Arc::new(Interrupts::new(none, choices, Arc::clone(device) as _, vectors, None))
    }

    fn trapped_bar() -> Trapped {
        let file = tempfile::tempfile().unwrap();
        let device = Arc::new(Device::fake(file, Vec::new()));
        let interrupts = no_interrupts(&device);
        let bell = Arc::new(vmm_sys_util::eventfd::EventFd::new(0).unwrap());
        let (health, stays) = (Arc::new(Health::new(bell)), Stays::default());
        Trapped { index: 0, writable: true, device, interrupts, health, stays }
    }

    fn refused() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    #[test]
    fn access_that_fails_while_the_bar_stays_is_the_device_s_fault() {
        let bar = trapped_bar();
        let _stay = Stay::begin(&bar.stays);

        assert!(!bar.access(format_args!("read"), refused));

        assert!(bar.health.condition().failure.is_some());
    }

    #[test]
    fn access_that_fails_because_the_guest_moves_the_bar_is_not() {
        let bar = trapped_bar();
        bar.access(format_args!("before it is placed"), refused);
        let stay = Stay::begin(&bar.stays);
        bar.access(format_args!("while it goes"), || {
            drop(stay);
            refused()
        });
        let mut again = None;
        bar.access(format_args!("while it comes again"), || {
            again = Some(Stay::begin(&bar.stays));
            refused()
        });

        assert_eq!(bar.health.condition().failure, None);
    }

    #[test]
    fn access_past_what_the_device_has_is_not_either() {
        let bar = trapped_bar();
        let _stay = Stay::begin(&bar.stays);
        let mut data = [0; 4];

        bar.read(0x1000, &mut data);

        assert_eq!(data, [0xff; 4]);
        assert_eq!(bar.health.condition().failure, None);
    }
}
