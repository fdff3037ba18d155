//! An open function and the kernel behind it, for `devices` to drive: everything that it says is the
//! caller's choice, everything that it is told is checked.
//!
//! What `linux/vfio.h` promises is kept (an answer never exceeds `argsz`), and what it demands is
//! asserted: `argsz` is right, no two interrupt indices are on at once, no access leaves a region.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use devices::vfio::sys::file::DeviceFile;
use devices::vfio::sys::mmap::Mmap;

/// Regions that VFIO has for a PCI function: BARs 0 to 5, ROM, configuration space, VGA.
pub const REGIONS: usize = 9;
/// Which of them is configuration space.
pub const CONFIG: usize = 7;
/// Interrupt indices: INTx, MSI, MSI-X, error, request.
pub const INDICES: usize = 5;
/// Number of the MSI-X index.
pub const MSIX: u32 = 2;

const GET_INFO: u32 = 7;
const GET_REGION_INFO: u32 = 8;
const GET_IRQ_INFO: u32 = 9;
const SET_IRQS: u32 = 10;
const RESET: u32 = 11;
const GET_HOT_RESET_INFO: u32 = 12;

const DATA_NONE: u32 = 1;
const DATA_EVENTFD: u32 = 1 << 2;
const ACTION_UNMASK: u32 = 1 << 4;
const ACTION_TRIGGER: u32 = 1 << 5;

/// `VFIO_IRQ_INFO_NORESIZE`.
pub const NO_RESIZE: u32 = 1 << 3;

/// What the kernel says of a function.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// `vfio_region_info` of each region with its capabilities, as words; none: `EINVAL`.
    pub regions: [Option<Vec<u32>>; REGIONS],
    /// Flags and count of each interrupt index.
    pub interrupts: [(u32, u32); INDICES],
    /// Contents of configuration space.
    pub config: Vec<u8>,
    /// The device's own MSI-X Pending bits, and what else it keeps in BARs.
    pub filler: u8,
    /// The kernel can reset it alone.
    pub resettable: bool,
    /// `vfio_pci_hot_reset_info` after its size, as words.
    pub neighbours: Vec<u32>,
    /// Interrupt set-ups that it refuses, by turns; empty: none.
    pub refusals: Vec<bool>,
}

/// A function in the kernel's hands. Clones are one and the same.
#[derive(Clone, Debug)]
pub struct Kernel(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    said: Said,
    turn: usize,
    active: Option<u32>,
    enabled: bool,
    wires: BTreeMap<u32, RawFd>,
    /// Bytes of device memory that are mapped, by the address they have here.
    mapped: BTreeMap<usize, Range<u64>>,
}

/// Stands for device memory. It is mapped and never touched.
static MEMORY: LazyLock<File> =
    LazyLock::new(|| tempfile::tempfile().expect("a file that stands for device memory"));

impl Kernel {
    /// A function of which this is true.
    pub fn new(said: Said) -> Self {
        Self(Arc::new(Mutex::new(State {
            said,
            turn: 0,
            active: None,
            enabled: false,
            wires: BTreeMap::new(),
            mapped: BTreeMap::new(),
        })))
    }

    /// The eventfd that `vector` of the active index is wired to.
    pub fn wire(&self, vector: u32) -> Option<RawFd> {
        self.state().wires.get(&vector).copied()
    }

    /// The index that is on.
    pub fn active(&self) -> Option<u32> {
        self.state().active
    }

    /// Whether MSI-X was turned on since the last look. Its vectors may have been written an event
    /// too many each, by hotbay itself.
    pub fn take_enabled(&self) -> bool {
        std::mem::take(&mut self.state().enabled)
    }

    /// Which bytes of the device's file are mapped at `address`.
    pub fn mapped_at(&self, address: usize) -> Option<Range<u64>> {
        self.state().mapped.get(&address).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no target goes on after a panic")
    }
}

/// Where a region is in the device's file, by the kernel's own words.
pub fn place(words: &[u32]) -> Range<u64> {
    let long = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
    let (size, start) = (long(4), long(6));
    start..start.saturating_add(size)
}

impl DeviceFile for Kernel {
    fn call(&self, number: u32, argument: &mut [u32]) -> io::Result<i32> {
        let mut state = self.state();
        let length = u32::try_from(argument.len() * 4).expect("a small structure");
        let argsz = argument.first().map_or(0, |argsz| *argsz);
        assert_eq!(argsz.next_multiple_of(4), length, "argsz of request {number}");
        match number {
            GET_INFO => {
                const PCI: u32 = 2;
                let resettable = u32::from(state.said.resettable);
                argument[1..4].copy_from_slice(&[PCI | resettable, REGIONS as u32, INDICES as u32]);
                Ok(0)
            }
            GET_REGION_INFO => state.region_info(argument),
            GET_IRQ_INFO => {
                let said = state.said.interrupts.get(argument[2] as usize).ok_or_else(einval)?;
                (argument[1], argument[3]) = *said;
                Ok(0)
            }
            SET_IRQS => state.set_irqs(argument),
            RESET => {
                assert!(state.said.resettable, "a reset that the kernel has not offered");
                Ok(0)
            }
            GET_HOT_RESET_INFO => {
                argument
                    .iter_mut()
                    .skip(1)
                    .zip(&state.said.neighbours)
                    .for_each(|(to, from)| *to = *from);
                if argument.len() > 3 {
                    Ok(0)
                } else {
                    Err(io::Error::from_raw_os_error(libc::ENOSPC))
                }
            }
            other => panic!("request {other}"),
        }
    }

    fn read_at(&self, position: u64, data: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let Some((region, offset)) = state.find(position, data.len()) else {
            panic!("{} bytes at {position:#x} are in no region", data.len());
        };
        data.fill(state.said.filler);
        if region == CONFIG {
            let bytes = state.said.config.get(offset..).unwrap_or_default();
            data.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }

    fn write_at(&self, position: u64, data: &[u8]) -> io::Result<()> {
        let found = self.state().find(position, data.len());
        assert!(found.is_some(), "{} bytes at {position:#x} are in no region", data.len());
        Ok(())
    }

    fn map(&self, position: u64, size: u64, protection: i32) -> io::Result<Mmap> {
        let length = usize::try_from(size).map_err(|_| einval())?;
        let mut state = self.state();
        assert!(state.find(position, length).is_some(), "{size:#x} bytes at {position:#x}");
        // A device with gigabytes costs a fuzzer time and shows nothing.
        if size > 1 << 30 {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let memory = Mmap::new(&MEMORY, 0, size, protection)?;
        state.mapped.insert(memory.backing().host.addr().get(), position..position + size);
        Ok(memory)
    }
}

impl State {
    fn region_info(&self, argument: &mut [u32]) -> io::Result<i32> {
        let index = argument[2] as usize;
        let said = self.said.regions.get(index).and_then(Option::as_ref).ok_or_else(einval)?;
        argument.iter_mut().zip(said).for_each(|(to, from)| *to = *from);
        Ok(0)
    }

    /// Which region has all of this, and where.
    fn find(&self, position: u64, length: usize) -> Option<(usize, usize)> {
        let end = position.checked_add(u64::try_from(length).ok()?)?;
        let mut all = self.said.regions.iter().enumerate();
        all.find_map(|(index, words)| {
            let place = place(words.as_deref()?);
            let inside = place.start <= position && end <= place.end;
            let offset = usize::try_from(position.wrapping_sub(place.start)).ok()?;
            inside.then_some((index, offset))
        })
    }

    fn set_irqs(&mut self, argument: &[u32]) -> io::Result<i32> {
        let &[_argsz, flags, index, start, count, ref data @ ..] = argument else {
            panic!("{argument:?} is too short");
        };
        match flags {
            _ if index > MSIX => {
                assert!((index as usize) < INDICES && (start, count) == (0, 1), "{argument:?}");
                Ok(0)
            }
            _ if flags == DATA_NONE | ACTION_TRIGGER && count == 0 => {
                self.wires.clear();
                self.active = None;
                Ok(0)
            }
            _ if flags == DATA_NONE | ACTION_TRIGGER => {
                assert!(self.wires.contains_key(&start), "vector {start} fires without a wire");
                Ok(0)
            }
            _ if flags == DATA_EVENTFD | ACTION_UNMASK => Ok(0),
            _ if flags == DATA_EVENTFD | ACTION_TRIGGER => {
                assert_eq!(data.len(), count as usize, "a descriptor for each vector");
                self.wire(index, start, data)
            }
            other => panic!("flags {other:#x}"),
        }
    }

    fn wire(&mut self, index: u32, start: u32, data: &[u32]) -> io::Result<i32> {
        assert!(
            self.active.is_none_or(|active| active == index),
            "{index} while {:?}",
            self.active
        );
        let (flags, most) = self.said.interrupts[index as usize];
        let end = u64::from(start) + data.len() as u64;
        if end > u64::from(most) || data.is_empty() {
            return Err(einval());
        }
        self.turn += 1;
        let refusals = &self.said.refusals;
        if !refusals.is_empty() && refusals[self.turn % refusals.len()] {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let frozen = flags & NO_RESIZE != 0 && self.active.is_some();
        self.enabled |= self.active.is_none() && index == MSIX;
        self.active = Some(index);
        for (vector, fd) in (start..).zip(data) {
            match RawFd::try_from(*fd) {
                Ok(fd) => drop(self.wires.insert(vector, fd)),
                Err(_) => drop(self.wires.remove(&vector)),
            }
        }
        assert!(!frozen || data.len() == 1, "a block on a live index is undone whole");
        Ok(0)
    }
}

fn einval() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}
