//! An open function: regions read and written, interrupts wired, reset.

mod reset;

use std::io;
use std::os::fd::AsRawFd;

use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_IRQ_INFO_NORESIZE,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_REQ_IRQ_INDEX, VFIO_PCI_ROM_REGION_INDEX, vfio_device_info, vfio_irq_info,
};
use vmm_sys_util::eventfd::EventFd;

use super::file::DeviceFile;
use super::mmap::Mmap;
use super::region::Region;
use super::size_of;
use crate::vfio::counters::Counters;

pub use self::reset::Affected;
pub(in crate::vfio) use self::reset::RESET;

/// Numbers of requests.
pub(in crate::vfio) const GET_INFO: u32 = 7;
pub(in crate::vfio) const GET_IRQ_INFO: u32 = 9;
pub(in crate::vfio) const SET_IRQS: u32 = 10;

/// BARs 0 to 5, the ROM as 6, configuration space as 7: VFIO's own numbers.
const REGIONS: u32 = VFIO_PCI_CONFIG_REGION_INDEX + 1;
/// Number of the ROM's region.
pub const ROM_REGION: usize = VFIO_PCI_ROM_REGION_INDEX as usize;
const CONFIG_REGION: usize = VFIO_PCI_CONFIG_REGION_INDEX as usize;

/// VFIO's interrupt indices that carry a guest's interrupts; at most one is
/// active at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// The level-triggered line.
    Intx,
    /// Message-signalled interrupts.
    Msi,
    /// The same, extended.
    Msix,
}

/// VFIO's interrupt indices by which the host speaks to whoever has the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The device has failed: PCI Express has reported an error (AER).
    Failed,
    /// The host wants the function back. Said again about every 10 s.
    Wanted,
}

/// A function opened through its group.
#[derive(Debug)]
pub struct Device {
    file: Box<dyn DeviceFile>,
    regions: Vec<Region>,
    resettable: bool,
    /// New MSI-X vectors can be added while others are live (Linux 6.5 and up).
    msix_grows: bool,
    /// Vectors that each index has: INTx, MSI, MSI-X.
    counts: [u32; 3],
    counters: Counters,
}

impl Device {
    /// Reads what the kernel says of an open function.
    pub fn new(file: Box<dyn DeviceFile>) -> io::Result<Self> {
        let mut info = [size_of::<vfio_device_info>(), 0, 0, 0, 0, 0];
        file.call(GET_INFO, &mut info)?;
        let [_argsz, flags, regions, ..] = info;
        if flags & VFIO_DEVICE_FLAGS_PCI == 0 || regions < REGIONS {
            return Err(io::Error::other("the device is no PCI function"));
        }
        let region = |index| match Region::query(file.as_ref(), index) {
            // The kernel has no VGA region, say; the indices after it stay where they are.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Region::default()),
            other => other,
        };
        let regions = (0..REGIONS).map(region).collect::<io::Result<_>>()?;
        let mut device = Self {
            file,
            regions,
            resettable: flags & VFIO_DEVICE_FLAGS_RESET != 0,
            msix_grows: false,
            counts: [0; 3],
            counters: Counters::default(),
        };
        for index in [Index::Intx, Index::Msi, Index::Msix] {
            let (flags, count) = device.irq_info(index.number())?;
            device.counts[index.position()] = count;
            device.msix_grows = flags & VFIO_IRQ_INFO_NORESIZE == 0;
        }
        Ok(device)
    }

    /// Region of BAR `index`, or of the ROM ([`ROM_REGION`]).
    pub fn region(&self, index: usize) -> Option<&Region> {
        self.regions.get(index).filter(|region| region.size > 0)
    }

    /// Vectors of an index.
    pub fn vectors(&self, index: Index) -> u32 {
        self.counts[index.position()]
    }

    /// Whether MSI-X vectors can be armed one by one while others are live.
    pub fn msix_grows(&self) -> bool {
        self.msix_grows
    }

    /// What the function has cost so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes of configuration space.
    pub fn config_size(&self) -> u64 {
        self.regions.get(CONFIG_REGION).map_or(0, |region| region.size)
    }

    /// Reads configuration space.
    pub fn read_config(&self, offset: u16, data: &mut [u8]) -> io::Result<()> {
        self.counters.config_reads.bump();
        self.read(CONFIG_REGION, offset.into(), data)
    }

    /// Writes configuration space.
    pub fn write_config(&self, offset: u16, data: &[u8]) -> io::Result<()> {
        self.counters.config_writes.bump();
        self.write(CONFIG_REGION, offset.into(), data)
    }

    /// Reads `data.len()` bytes at `offset` of region `index`.
    pub fn read(&self, index: usize, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = self.position(index, offset, data.len())?;
        self.file.read_at(at, data)
    }

    /// Writes `data` at `offset` of region `index`.
    pub fn write(&self, index: usize, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = self.position(index, offset, data.len())?;
        self.file.write_at(at, data)
    }

    /// Maps part of a region that the kernel lets us map.
    pub fn map(&self, region: &Region, offset: u64, size: u64) -> io::Result<Mmap> {
        self.file.map(region.offset + offset, size, region.protection())
    }

    /// Wires vectors `start..` of `index` to eventfds; `None` takes one off and
    /// masks it. The first call enables the index. A block with a failing vector
    /// is undone whole by the kernel: on a live device, wire one at a time.
    pub fn wire(&self, index: Index, start: u32, triggers: &[Option<&EventFd>]) -> io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_irqs(flags, index, start, triggers)
    }

    /// Lets the kernel unmask INTx whenever `resample` is written.
    pub fn unmask_on(&self, resample: &EventFd) -> io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK;
        self.set_irqs(flags, Index::Intx, 0, &[Some(resample)])
    }

    /// Disables an index: none of its eventfds is written any more.
    pub fn unwire(&self, index: Index) -> io::Result<()> {
        self.set_irqs(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, &[])
    }

    /// Fires one wired vector as the hardware would (the kernel's loopback).
    pub fn fire(&self, index: Index, vector: u32) -> io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.raw_set_irqs(&[0, flags, index.number(), vector, 1])
    }

    /// Has `event` written whenever the host gives `notice`. Returns whether the
    /// function has such a notice: one of conventional PCI never fails that way.
    pub fn listen(&self, notice: Notice, event: &EventFd) -> io::Result<bool> {
        let index = notice.number();
        match self.irq_info(index) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(false),
            Err(error) => return Err(error),
            Ok((_, 0)) => return Ok(false),
            Ok(_) => {}
        }
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        let fd = event.as_raw_fd().cast_unsigned();
        self.raw_set_irqs(&[0, flags, index, 0, 1, fd]).map(|()| true)
    }

    /// Flags of an index, and how many vectors it has.
    fn irq_info(&self, index: u32) -> io::Result<(u32, u32)> {
        let mut info = [size_of::<vfio_irq_info>(), 0, index, 0];
        self.file.call(GET_IRQ_INFO, &mut info)?;
        let [_argsz, flags, _index, count] = info;
        Ok((flags, count))
    }

    fn set_irqs(
        &self,
        flags: u32,
        index: Index,
        start: u32,
        fds: &[Option<&EventFd>],
    ) -> io::Result<()> {
        let count = u32::try_from(fds.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut set = vec![0, flags, index.number(), start, count];
        let raw = |fd: &Option<&EventFd>| fd.map_or(-1, |fd| fd.as_raw_fd());
        set.extend(fds.iter().map(|fd| raw(fd).cast_unsigned()));
        self.raw_set_irqs(&set)
    }

    /// `set` is a `vfio_irq_set`: five words and then the data; word 0 is filled
    /// in here.
    fn raw_set_irqs(&self, set: &[u32]) -> io::Result<()> {
        self.counters.set_irqs.bump();
        let mut set = set.to_vec();
        set[0] = u32::try_from(set.len() * 4).map_err(|_| io::ErrorKind::InvalidInput)?;
        match self.file.call(SET_IRQS, &mut set)? {
            0 => Ok(()),
            // How many vectors there would have been instead; none has been allocated.
            1.. | ..0 => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        }
    }

    /// Where an access is in the device's file, if it lies inside the region.
    fn position(&self, index: usize, offset: u64, length: usize) -> io::Result<u64> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let region = self.regions.get(index).ok_or_else(outside)?;
        let end = u64::try_from(length).ok().and_then(|length| offset.checked_add(length));
        let inside = end.is_some_and(|end| end <= region.size);
        if inside { Ok(region.offset + offset) } else { Err(outside()) }
    }
}

impl Index {
    fn number(self) -> u32 {
        match self {
            Self::Intx => VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Self::Msix => VFIO_PCI_MSIX_IRQ_INDEX,
        }
    }

    fn position(self) -> usize {
        match self {
            Self::Intx => 0,
            Self::Msi => 1,
            Self::Msix => 2,
        }
    }
}

impl Notice {
    fn number(self) -> u32 {
        match self {
            Self::Failed => VFIO_PCI_ERR_IRQ_INDEX,
            Self::Wanted => VFIO_PCI_REQ_IRQ_INDEX,
        }
    }
}

/// A file in the place of a function: its bytes are the registers, and no ioctl
/// works on it.
#[cfg(test)]
pub(crate) mod fake {
    use std::fs::File;

    use super::*;

    impl Device {
        /// `regions` of `file`, by VFIO's numbers; those that are missing have no bytes.
        pub(crate) fn fake(file: File, mut regions: Vec<Region>) -> Self {
            regions.resize(CONFIG_REGION + 1, Region::default());
            let (resettable, msix_grows, counts) = (true, true, [0; 3]);
            let (file, counters) = (Box::new(file), Counters::default());
            Self { file, regions, resettable, msix_grows, counts, counters }
        }
    }
}
