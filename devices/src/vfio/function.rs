//! A passed-through function as the guest's bus drives it: configuration
//! accesses taken apart and given to whom they concern.
//!
//! Two locks: this function's registers, and below it (taken inside) its
//! interrupts. A BAR access takes only the second, so a table write never waits
//! for a reset that another vCPU runs in configuration space.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::irq::{Line, Vectors};
use crate::pci::Function;
use crate::pci::bar::{self, Bars, Kind, Placement};
use crate::pci::config::{
    self, COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE, COMMAND_IO, COMMAND_MEMORY,
};
use crate::vfio::bars::{Bar, GuestSpaces, Placements, trapped};
use crate::vfio::config::{Config, Field, Location, Piece};
use crate::vfio::dma::Dma;
use crate::vfio::health::Health;
use crate::vfio::host::HostFunction;
use crate::vfio::interrupts::{Abilities, Choices, Interrupts};
use crate::vfio::iommu::Attachment;
use crate::vfio::notices::Notices;
use crate::vfio::resets::Means;
use crate::vfio::room::Need;
use crate::vfio::sys::device::{Device, ROM_REGION};
use crate::vfio::user::{Lent, Remote, Server};

/// Command bits that exist on a PCI Express function; the others read zero.
const COMMAND_BITS: u16 =
    COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER | 1 << 6 | 1 << 8 | COMMAND_INTX_DISABLE;
/// Power state field; 0 is D0.
const POWER_STATE: u8 = 3;
/// PMCSR: coming back from D3hot does not reset the function.
const NO_SOFT_RESET: u8 = 1 << 3;
/// High byte of Device Control: initiate a function-level reset.
const FUNCTION_RESET: u8 = 1 << 7;
/// Control of the advanced features: initiate a function-level reset.
const ADVANCED_RESET: u8 = 1;

const UNPLACED: [Option<Placement>; bar::COUNT] = [None; bar::COUNT];

/// A function opened on the host and read, before the guest's side is made.
///
/// Fields are in teardown order.
pub struct Opened {
    device: Arc<Device>,
    config: Config,
    dma: Dma,
    about: About,
}

/// A function in the guest's hands.
///
/// Fields are in teardown order, after interrupts, which [`Drop`] takes down
/// first: windows and traps, the device, its reach.
pub struct Passthrough {
    registers: Mutex<Registers>,
    interrupts: Arc<Interrupts>,
    device: Arc<Device>,
    dma: Dma,
    about: About,
    needs: Vec<Need>,
}

/// What the host knows and says of a function.
struct About {
    name: String,
    means: Means,
    notices: Arc<Notices>,
    health: Arc<Health>,
}

/// What the guest has written, and what follows from it.
struct Registers {
    placements: Placements,
    bars: Bars,
    config: Config,
    command: u16,
    powered: bool,
}

impl Opened {
    /// Opens `function` of an attached group; the kernel resets it, and where that is
    /// weak it is reset once more. Each may take 100 ms. `bell` is written when
    /// something goes wrong with it.
    pub fn new(
        group: Arc<Attachment>,
        function: &HostFunction,
        bell: Arc<EventFd>,
    ) -> io::Result<Self> {
        let device = Device::new(Box::new(group.group().device(function.name())?))?;
        let means = Means::of(&device, &function.reset_methods());
        Self::read(device, Dma::Group(group), (function.name(), means), bell)
    }

    /// Takes the function that `server` emulates, which has the guest's RAM, and tells
    /// `bell` of it too when the server is lost. `name` is its socket.
    ///
    /// # Errors
    /// The server's, and what [`Opened::new`] says of a device that contradicts itself.
    pub fn served(server: Server, lent: Lent, name: &str, bell: Arc<EventFd>) -> io::Result<Self> {
        let connection = Arc::clone(server.connection());
        let device = Device::new(Box::new(Remote::new(server)))?;
        let means = Means::of_server(&device);
        let opened = Self::read(device, Dma::Server(lent), (name, means), bell)?;
        connection.tell(&opened.about.health);
        Ok(opened)
    }

    /// Takes `device` for a function of a group that does not exist.
    ///
    /// # Errors
    /// As [`Opened::new`].
    #[cfg(feature = "fuzzing")]
    pub fn fake(device: Device, bell: Arc<EventFd>) -> io::Result<Self> {
        let means = Means::of(&device, &[]);
        Self::read(device, Dma::Group(crate::vfio::iommu::fake(0)), ("0000:00:00.0", means), bell)
    }

    /// Reads what an open function says of itself; whoever has opened it knows its name
    /// and what resets it.
    fn read(
        device: Device,
        dma: Dma,
        (name, means): (&str, Means),
        bell: Arc<EventFd>,
    ) -> io::Result<Self> {
        let device = Arc::new(device);
        let about = About {
            means,
            notices: Arc::new(Notices::listen(&device)?),
            health: Arc::new(Health::new(bell)),
            name: name.to_owned(),
        };
        if let Some(group) = dma.group().filter(|_| about.means.is_better_on_arrival(name)) {
            about.health.was_reset(&device.hot_reset(&[group.group()]));
        }
        let config = configuration(&device)?;
        Ok(Self { device, config, dma, about })
    }

    /// What interrupts it has: tells how many vectors to lend.
    pub fn abilities(&self) -> Abilities {
        Abilities { msi_control: self.config.msi_control(), msix: self.config.msix() }
    }

    /// Number of its interrupt pin, 0 for INTA, if it has one that works.
    pub fn pin(&self) -> Option<u8> {
        let works = self.device.vectors(crate::vfio::sys::device::Index::Intx) > 0;
        self.config.interrupt_pin().checked_sub(1).filter(|pin| works && *pin < 4)
    }

    /// What its BARs and its ROM need of the guest's addresses.
    pub fn needs(&self) -> Vec<Need> {
        let describe = |index| describe(&self.device, &self.config, index);
        let size = |size: u64| size.checked_next_power_of_two().unwrap_or(u64::MAX);
        (0..bar::COUNT).filter_map(describe).map(|(kind, bytes)| (kind, size(bytes))).collect()
    }

    /// Makes the guest's side. BARs in `unmapped` stay trapped.
    pub fn finish(
        self,
        spaces: GuestSpaces,
        (vectors, line, choices): (Box<dyn Vectors>, Option<Box<dyn Line>>, Choices),
        unmapped: &[u8],
    ) -> Passthrough {
        let (abilities, needs) = (self.abilities(), self.needs());
        let Self { device, config, dma, about } = self;
        let wiring = Arc::clone(&device);
        let interrupts = Arc::new(Interrupts::new(abilities, choices, wiring, vectors, line));
        let (mut bars, mut answers) = (Bars::new(), [const { None }; bar::COUNT]);
        for (index, answer) in answers.iter_mut().enumerate() {
            let Some((kind, size)) = describe(&device, &config, index) else { continue };
            bars.declare(index, kind, size);
            let excluded = unmapped.iter().any(|bar| usize::from(*bar) == index);
            let holes = if excluded { vec![0..size] } else { trapped(abilities.msix, index) };
            *answer = Some(Bar::new(index, &device, &interrupts, &about.health, &holes));
        }
        let placements = Placements::new(answers, spaces, Arc::clone(&device));
        let registers = Registers { placements, bars, config, command: 0, powered: true };
        Passthrough { registers: Mutex::new(registers), interrupts, device, dma, about, needs }
    }
}

/// What the device says of itself, unless it contradicts itself.
fn configuration(device: &Device) -> io::Result<Config> {
    let express = config::EXPRESS_SIZE as u64;
    let size = if device.config_size() >= express { express } else { 0x100 };
    let mut image = vec![0; usize::try_from(size).unwrap_or(config::CONVENTIONAL_SIZE)];
    device.read_config(0, &mut image)?;
    let config = Config::new(image);
    if let Some(layout) = config.msix() {
        check_inside(device, layout.table, layout.table_size())?;
        check_inside(device, layout.pending, layout.pending_size())?;
    }
    Ok(config)
}

/// MSI-X is in BARs only: two of the eight numbers that its registers could give
/// are reserved (PCI 3.0, 6.8.2.4), and are other regions to VFIO.
fn check_inside(device: &Device, at: Location, bytes: u64) -> io::Result<()> {
    let region = device.region(at.bar).filter(|_| at.bar < bar::ROM);
    let end = at.offset.saturating_add(bytes);
    if region.is_some_and(|region| end <= region.size) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "its MSI-X table lies outside its BAR"))
}

/// Kind and size of BAR `index`, if the device has it.
fn describe(device: &Device, config: &Config, index: usize) -> Option<(Kind, u64)> {
    let region = device.region(index)?;
    if index == ROM_REGION {
        return region.is_readable().then_some((Kind::Rom, region.size));
    }
    let offset = config::BAR0 + u16::try_from(index).ok()? * 4;
    let mut register = [0; 4];
    config.read(offset, &mut register);
    let prefetchable = register[0] & 8 != 0;
    let kind = match register[0] & 7 {
        low if low & 1 != 0 => Kind::Io,
        4 => Kind::Memory64 { prefetchable },
        _ => Kind::Memory32 { prefetchable },
    };
    Some((kind, region.size))
}

impl Passthrough {
    /// The function's interrupts.
    pub fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// What the function has cost the host so far.
    pub fn counters(&self) -> &crate::vfio::counters::Counters {
        self.device.counters()
    }

    /// Its name on the host: `0000:01:00.0`, or its server's socket.
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// What its BARs and its ROM need of the guest's addresses.
    pub fn needs(&self) -> &[Need] {
        &self.needs
    }

    /// What there is to reset it.
    pub fn means(&self) -> &Means {
        &self.about.means
    }

    /// What the host says of it.
    pub fn notices(&self) -> &Arc<Notices> {
        &self.about.notices
    }

    /// How it fares.
    pub fn health(&self) -> &Health {
        &self.about.health
    }

    /// Takes away everything the guest wrote: interrupts, BARs, DMA. What is left
    /// for a reset is the device's own state. Afterwards it writes no memory any
    /// more: the answer to a read pushes before it what the function had sent by
    /// then (PCI Express 4.0, 2.4.1).
    pub(in crate::vfio) fn quiesce(&self) -> io::Result<()> {
        let mut registers = self.lock();
        registers.forget(&self.interrupts);
        let off = self.device.write_config(config::COMMAND, &[0; 2]);
        let quiet = off.and_then(|()| self.device.read_config(config::COMMAND, &mut [0; 2]));
        quiet.inspect_err(|error| self.failed(format_args!("end of its DMA"), error))
    }

    pub(in crate::vfio) fn device(&self) -> &Device {
        &self.device
    }

    /// Its IOMMU group, if it is a function of the host's.
    pub(in crate::vfio) fn group(&self) -> Option<&Arc<Attachment>> {
        self.dma.group()
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forward(&self, offset: u16, data: &[u8]) {
        if let Err(error) = self.device.write_config(offset, data) {
            let access = format_args!("write of configuration space at {offset:#x}");
            self.failed(access, &error);
        }
    }

    fn fetch(&self, offset: u16, data: &mut [u8]) {
        if let Err(error) = self.device.read_config(offset, data) {
            self.failed(format_args!("read of configuration space at {offset:#x}"), &error);
            data.fill(0xff);
        }
    }

    /// An access that the kernel grants whatever the guest does, so it is the
    /// device that fails.
    fn failed(&self, access: std::fmt::Arguments<'_>, error: &io::Error) {
        log::debug!("{access}: {error}");
        self.device.counters().access_failures.bump();
        self.about.health.access_failed(access, error);
    }

    fn write_piece(&self, registers: &mut Registers, piece: &Piece<'_>) {
        let &Piece { field, start, at, data } = piece;
        match field {
            Field::Fixed => {}
            Field::Scratch => registers.config.write_scratch(at, data),
            Field::Command => self.write_command(registers, piece),
            Field::Bar(index) => {
                registers.bars.write(index, piece.merge(registers.bars.read(index)));
                registers.follow();
            }
            Field::Msi(capability) => self.interrupts.write_msi(usize::from(at - capability), data),
            Field::MsixControl => {
                let [low, high, ..] =
                    piece.merge(self.interrupts.msix_control().into()).to_le_bytes();
                self.interrupts.write_msix_control(u16::from_le_bytes([low, high]));
            }
            Field::PowerControl => self.write_power(registers, piece),
            Field::DeviceControl => {
                let reset = piece.byte(start + 1).is_some_and(|high| high & FUNCTION_RESET != 0);
                self.write_reset(registers, piece, reset && registers.config.has_function_reset());
            }
            Field::AdvancedControl => {
                let reset = piece.byte(start).is_some_and(|low| low & ADVANCED_RESET != 0);
                self.write_reset(registers, piece, reset);
            }
            Field::Device => self.forward(at, data),
        }
    }

    /// Windows go before the device stops decoding and come after it begins: the
    /// kernel takes the pages away in between, and a vCPU that hit one would die.
    fn write_command(&self, registers: &mut Registers, piece: &Piece<'_>) {
        let [low, high, ..] = piece.merge(registers.command.into()).to_le_bytes();
        let command = u16::from_le_bytes([low, high]) & COMMAND_BITS;
        registers.command = command;
        registers.withdraw();
        self.forward(config::COMMAND, &command.to_le_bytes());
        registers.follow();
        let active = command & (COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER) != 0;
        self.interrupts.allow_line(active && command & COMMAND_INTX_DISABLE == 0);
    }

    fn write_power(&self, registers: &mut Registers, piece: &Piece<'_>) {
        let Some(control) = piece.byte(piece.start) else {
            return self.forward(piece.at, piece.data);
        };
        let was_powered = registers.powered;
        registers.powered = control & POWER_STATE == 0;
        registers.withdraw();
        self.forward(piece.at, piece.data);
        let mut now = [0];
        if !was_powered && registers.powered {
            self.fetch(piece.start, &mut now);
            if now[0] & NO_SOFT_RESET == 0 {
                return registers.forget(&self.interrupts);
            }
        }
        registers.follow();
    }

    /// The kernel runs the reset inside the write; MSI-X would survive it, so
    /// interrupts are taken down here.
    fn write_reset(&self, registers: &mut Registers, piece: &Piece<'_>, reset: bool) {
        if reset {
            registers.forget(&self.interrupts);
        }
        self.forward(piece.at, piece.data);
    }

    fn read_piece(&self, registers: &Registers, piece: (Field, u16, Range<u16>), data: &mut [u8]) {
        let (field, start, range) = piece;
        let within = usize::from(range.start - start);
        let mut copy = |register: u32| {
            let bytes = register.to_le_bytes();
            data.iter_mut().zip(&bytes[within..]).for_each(|(to, from)| *to = *from);
        };
        match field {
            Field::Fixed | Field::Scratch => registers.config.read(range.start, data),
            Field::Command => copy(registers.command.into()),
            Field::Bar(index) => copy(registers.bars.read(index)),
            Field::MsixControl => copy(self.interrupts.msix_control().into()),
            Field::Msi(capability) => {
                self.interrupts.read_msi(usize::from(range.start - capability), data);
            }
            Field::PowerControl | Field::DeviceControl | Field::AdvancedControl | Field::Device => {
                self.fetch(range.start, data);
            }
        }
    }
}

impl Function for Passthrough {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let registers = self.lock();
        for piece in registers.config.pieces(offset, data.len()) {
            let range = usize::from(piece.2.start - offset)..usize::from(piece.2.end - offset);
            self.read_piece(&registers, piece, &mut data[range]);
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let mut registers = self.lock();
        for piece in registers.config.cut(offset, data) {
            self.write_piece(&mut registers, &piece);
        }
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        self.interrupts.reset();
    }
}

impl Registers {
    fn wanted(&self) -> [Option<Placement>; bar::COUNT] {
        let command = if self.powered { self.command } else { 0 };
        self.bars.placements(command, self.placements.apertures())
    }

    /// Takes away what the registers no longer place.
    fn withdraw(&mut self) {
        self.placements.withdraw(&self.wanted());
    }

    /// Places what the registers place.
    fn follow(&mut self) {
        self.placements.place(&self.wanted());
    }

    /// As after a reset.
    fn forget(&mut self, interrupts: &Interrupts) {
        interrupts.reset();
        self.placements.withdraw(&UNPLACED);
        self.bars.reset();
        self.command = 0;
        self.powered = true;
    }
}

#[cfg(test)]
mod tests;
