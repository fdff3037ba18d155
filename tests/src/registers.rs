//! A PCI function as software in the guest reaches it past its driver: configuration space and BARs, by
//! physical address. busybox's `devmem` is the hand; the guest needs [`RELAXED`] on its command line.

pub mod msix;

use crate::error::{Error, Result};
use crate::guest::Guest;

pub use self::msix::Msix;

/// What lets a stock kernel's `/dev/mem` at registers that a driver holds (`CONFIG_IO_STRICT_DEVMEM`).
pub const RELAXED: &str = "iomem=relaxed";
/// The same for a guest that has loaded no driver.
pub const RELAXED_AND_BARE: &str = "iomem=relaxed hotbay.modules=none";

/// Capabilities by their ID (PCI Code and ID Assignment, 2).
pub mod capability {
    /// Power management.
    pub const POWER: u8 = 0x01;
    /// MSI.
    pub const MSI: u8 = 0x05;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
    /// Advanced features of a conventional function.
    pub const ADVANCED_FEATURES: u8 = 0x13;
}

/// Command register, and bits of it.
pub mod command {
    /// Its offset.
    pub const REGISTER: u16 = 0x04;
    /// I/O BARs answer.
    pub const IO: u64 = 1;
    /// Memory BARs answer.
    pub const MEMORY: u64 = 1 << 1;
    /// The function may write memory, and send messages.
    pub const BUS_MASTER: u64 = 1 << 2;
    /// INTx is silent.
    pub const INTX_DISABLE: u64 = 1 << 10;
}

/// First base address register, and the bits of each that say whether it takes two registers.
const BAR0: u64 = 0x10;
const MEMORY_TYPE: u64 = 7;
const MEMORY_64: u64 = 4;

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
    /// The base address registers as they were.
    raw_bars: Vec<u64>,
    /// ID and offset of each capability.
    capabilities: Vec<(u8, u16)>,
}

impl Registers {
    /// Waits for the function at `bdf` in the guest, until its BARs are placed.
    pub fn of(guest: &mut Guest, bdf: &str) -> Result<Self> {
        let placed = format!("ls /sys/bus/pci/devices/{bdf}/resource?");
        guest.wait_for(&format!("{bdf} has its BARs"), &placed)?;
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
        let raw_bars = (0..6).map(|bar| read_memory(guest, Width::Dword, config + BAR0 + 4 * bar));
        let raw_bars = raw_bars.collect::<Result<_>>()?;
        Ok(Self { bdf: bdf.to_owned(), config, bars, raw_bars, capabilities })
    }

    /// First address of a BAR.
    pub fn bar(&self, bar: usize) -> Result<u64> {
        let placed = self.bars.get(bar).copied().filter(|address| *address != 0);
        placed.ok_or_else(|| Error::Unexpected(format!("{} has no BAR {bar}", self.bdf)))
    }

    /// Moves a memory BAR as an operating system would: decoding off, the new address, decoding on. In one
    /// command, for whoever uses the function meanwhile sees it gone.
    pub fn move_bar(&mut self, guest: &mut Guest, bar: usize, to: u64) -> Result {
        let decoding = self.config_read(guest, Width::Word, command::REGISTER)?;
        let wide = self.raw_bars.get(bar).is_some_and(|raw| raw & MEMORY_TYPE == MEMORY_64);
        let (command, register) =
            (self.config + u64::from(command::REGISTER), self.config + BAR0 + 4 * bar as u64);
        let mut steps = vec![
            format!("devmem {:#x} 16 {:#x}", command, decoding & !command::MEMORY),
            format!("devmem {:#x} 32 {:#x}", register, to & 0xffff_ffff),
        ];
        if wide {
            steps.push(format!("devmem {:#x} 32 {:#x}", register + 4, to >> 32));
        }
        steps.push(format!("devmem {:#x} 16 {decoding:#x}", command));
        guest.run(&steps.join(" && "))?;
        self.bars[bar] = to;
        Ok(())
    }

    /// Writes the base address registers as they were, after a reset that cleared them.
    pub fn restore_bars(&self, guest: &mut Guest) -> Result {
        for (at, raw) in (self.config + BAR0..).step_by(4).zip(&self.raw_bars) {
            write_memory(guest, Width::Dword, at, *raw)?;
        }
        Ok(())
    }

    /// What the base address registers hold now; only their flags, if they place nothing.
    pub fn raw_bars(&self, guest: &mut Guest) -> Result<Vec<u64>> {
        let bars = (self.config + BAR0..).step_by(4).take(self.raw_bars.len());
        bars.map(|at| read_memory(guest, Width::Dword, at)).collect()
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
    pub fn capability(&self, id: u8) -> Result<u16> {
        let found = self.capabilities.iter().find(|(found, _)| *found == id);
        let offset = found.map(|(_, offset)| *offset);
        offset.ok_or_else(|| Error::Unexpected(format!("{} has no capability {id:#x}", self.bdf)))
    }

    /// Lets the function's memory BARs answer and lets it send messages, with INTx silent or not. A driver
    /// does so; without one the guest has not.
    pub fn switch_on(&self, guest: &mut Guest, intx: bool) -> Result {
        let on = command::MEMORY | command::BUS_MASTER;
        let value = if intx { on } else { on | command::INTX_DISABLE };
        self.config_write(guest, Width::Word, command::REGISTER, value)
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
