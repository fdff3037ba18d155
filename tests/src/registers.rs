//! A PCI function as software in the guest reaches it past its driver: configuration space and BARs, by
//! physical address. busybox's `devmem` is the hand; the guest needs [`RELAXED`] on its command line.

pub mod msix;

use crate::error::{Error, Result};
use crate::guest::Guest;

pub use self::msix::Msix;

/// What lets a stock kernel's `/dev/mem` at registers that a driver holds (`CONFIG_IO_STRICT_DEVMEM`).
pub const RELAXED: &str = "iomem=relaxed";

/// Capabilities by their ID (PCI Code and ID Assignment, 2).
pub mod capability {
    /// Power management.
    pub const POWER: u8 = 0x01;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
    /// Advanced features of a conventional function.
    pub const ADVANCED_FEATURES: u8 = 0x13;
}

/// Command register, and its bit that lets memory BARs answer.
pub const COMMAND: u16 = 0x04;
/// See [`COMMAND`].
pub const COMMAND_MEMORY: u64 = 1 << 1;
/// First base address register.
pub const BAR0: u16 = 0x10;

/// Where the capabilities' list begins, and how much of configuration space it can lie in.
const CAPABILITIES: usize = 0x34;
const CONVENTIONAL_SIZE: usize = 0x100;
/// Room in ECAM for each device of the bus, whose functions are numbered 0 to 7.
const DEVICE_SHIFT: u32 = 15;

/// Bits of one access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte = 8,
    /// 16 bits.
    Word = 16,
    /// 32 bits.
    Dword = 32,
    /// 64 bits.
    Qword = 64,
}

/// One function of the guest, and where it was found when this was made.
#[derive(Debug, Clone)]
pub struct Registers {
    /// Its address in the guest.
    pub bdf: String,
    /// Physical address of its configuration space.
    config: u64,
    /// First address of each BAR; memory and I/O alike, 0 for one that it has not.
    bars: [u64; 6],
    /// ID and offset of each capability.
    capabilities: Vec<(u8, u16)>,
}

impl Registers {
    /// Finds the function at `bdf` in the guest.
    pub fn of(guest: &mut Guest, bdf: &str) -> Result<Self> {
        let bars = placed_bars(guest, bdf)?;
        let header = guest.run(&format!(
            "xxd -p -c {CONVENTIONAL_SIZE} -l {CONVENTIONAL_SIZE} /sys/bus/pci/devices/{bdf}/config"
        ))?;
        let capabilities = capabilities(&bytes(&header)?);
        let ecam = guest.run("grep -E -m 1 'ECAM|MMCONFIG' /proc/iomem")?;
        let base = ecam.trim().split('-').next().and_then(hex);
        let base = base.ok_or_else(|| Error::Unexpected(format!("no ECAM in {ecam:?}")))?;
        let device = bdf.rsplit(':').next().and_then(|tail| hex(tail.split('.').next()?));
        let device = device.ok_or_else(|| Error::Unexpected(format!("{bdf} is no address")))?;
        let config = base + (device << DEVICE_SHIFT);
        Ok(Self { bdf: bdf.to_owned(), config, bars, capabilities })
    }

    /// First address of a BAR.
    pub fn bar(&self, bar: usize) -> Result<u64> {
        let placed = self.bars.get(bar).copied().filter(|address| *address != 0);
        placed.ok_or_else(|| Error::Unexpected(format!("{} has no BAR {bar}", self.bdf)))
    }

    /// Reads a register, by BAR and offset in it.
    pub fn read(&self, guest: &mut Guest, width: Width, at: (usize, u64)) -> Result<u64> {
        read_memory(guest, width, self.bar(at.0)? + at.1)
    }

    /// Writes a register, by BAR and offset in it.
    pub fn write(&self, guest: &mut Guest, width: Width, at: (usize, u64), value: u64) -> Result {
        write_memory(guest, width, self.bar(at.0)? + at.1, value)
    }

    /// Reads 32 bits of a memory BAR.
    pub fn read32(&self, guest: &mut Guest, bar: usize, offset: u64) -> Result<u64> {
        self.read(guest, Width::Dword, (bar, offset))
    }

    /// Writes 32 bits of a memory BAR.
    pub fn write32(&self, guest: &mut Guest, bar: usize, offset: u64, value: u64) -> Result {
        self.write(guest, Width::Dword, (bar, offset), value)
    }

    /// Reads a register of configuration space through ECAM.
    pub fn config_read(&self, guest: &mut Guest, width: Width, offset: u16) -> Result<u64> {
        read_memory(guest, width, self.config + u64::from(offset))
    }

    /// Writes a register of configuration space through ECAM.
    pub fn config_write(&self, guest: &mut Guest, width: Width, offset: u16, value: u64) -> Result {
        write_memory(guest, width, self.config + u64::from(offset), value)
    }

    /// Offset of a capability in configuration space.
    pub fn capability(&self, id: u8) -> Option<u16> {
        self.capabilities.iter().find(|(found, _)| *found == id).map(|(_, offset)| *offset)
    }
}

/// Reads guest-physical memory.
pub fn read_memory(guest: &mut Guest, width: Width, address: u64) -> Result<u64> {
    let text = guest.run(&format!("devmem {address:#x} {}", width as u8))?;
    let value = hex(text.trim());
    value.ok_or_else(|| Error::Unexpected(format!("devmem {address:#x} printed {text:?}")))
}

/// Writes guest-physical memory.
pub fn write_memory(guest: &mut Guest, width: Width, address: u64, value: u64) -> Result {
    guest.run(&format!("devmem {address:#x} {} {value:#x}", width as u8)).map(drop)
}

fn placed_bars(guest: &mut Guest, bdf: &str) -> Result<[u64; 6]> {
    let resource = guest.run(&format!("head -n 6 /sys/bus/pci/devices/{bdf}/resource"))?;
    let starts = resource.lines().map(|line| line.split(' ').next().and_then(hex).unwrap_or(0));
    let starts: Vec<_> = starts.collect();
    starts.try_into().map_err(|_| Error::Unexpected(format!("no BARs of {bdf} in {resource:?}")))
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

fn bytes(text: &str) -> Result<Vec<u8>> {
    let text = text.trim();
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    let bytes: Option<Vec<u8>> = digits.collect();
    let bytes = bytes.filter(|bytes| bytes.len() >= CONVENTIONAL_SIZE);
    bytes.ok_or_else(|| Error::Unexpected(format!("no configuration space: {text:?}")))
}

/// Capabilities of a configuration space; a list that loops ends after as many as fit.
fn capabilities(space: &[u8]) -> Vec<(u8, u16)> {
    let mut found = Vec::new();
    let mut at = space[CAPABILITIES];
    while at != 0 && found.len() < CONVENTIONAL_SIZE / 4 {
        let offset = usize::from(at & !3);
        found.push((space[offset], offset.try_into().unwrap_or(0)));
        at = space[offset + 1];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_found_by_their_list() {
        let mut space = vec![0; CONVENTIONAL_SIZE];
        space[CAPABILITIES] = 0x40;
        space[0x40..0x42].copy_from_slice(&[capability::POWER, 0x70]);
        space[0x70..0x72].copy_from_slice(&[capability::MSIX, 0]);

        assert_eq!(capabilities(&space), [(capability::POWER, 0x40), (capability::MSIX, 0x70)]);
    }

    #[test]
    fn list_that_loops_ends() {
        let mut space = vec![0; CONVENTIONAL_SIZE];
        space[CAPABILITIES] = 0x40;
        space[0x40..0x42].copy_from_slice(&[capability::POWER, 0x40]);

        assert_eq!(capabilities(&space).len(), CONVENTIONAL_SIZE / 4);
    }
}
