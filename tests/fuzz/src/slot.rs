//! A function in a slot of the root bus, as a guest reaches it: through ECAM, the two ports and the
//! addresses where it has put BARs. Checked after every step: whatever is open is where the guest's
//! own registers put it.

use std::ops::Range;
use std::sync::Arc;

use devices::io::Access;
use devices::pci::bar::Apertures;
use devices::pci::bus::Bus;
use devices::pci::config::{BAR0, COMMAND, COMMAND_MEMORY, EXPRESS_SIZE};
use devices::pci::ecam::Ecam;
use devices::pci::ports::ConfigPorts;
use devices::space::Space;
use devices::vfio::bars::GuestSpaces;
use devices::vfio::config::MsixLayout;
use devices::vfio::function::{Opened, Passthrough};
use devices::vfio::interrupts::Choices;
use devices::vfio::sys::device::Device;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::kernel::{self, Kernel, Said};
use crate::machine::{Machine, Pin};

/// Bits of an ECAM offset below the slot.
const SLOT_SHIFT: u32 = 15;
const PORTS: Range<u64> = 0x1000..0x1_0000;
const LOW: Range<u64> = 0xc000_0000..0xe000_0000;
const HIGH: Range<u64> = 0x10_0000_0000..0x50_0000_0000;

/// The function, and both its sides.
pub struct Slot {
    /// The function itself.
    pub function: Arc<Passthrough>,
    /// The machine's side.
    pub machine: Machine,
    /// The kernel's side.
    pub kernel: Kernel,
    /// Its MSI-X, if it has any.
    pub msix: Option<MsixLayout>,
    ecam: Ecam,
    ports: ConfigPorts,
    memory: Arc<Space>,
    io: Arc<Space>,
    at: u64,
}

impl Slot {
    /// Puts a function of which `said` is true in a slot, if it is one that can be had.
    pub fn new(mut said: Said, choices: Choices, unmapped: &[u8]) -> Option<Self> {
        if choices.no_resize {
            said.interrupts[kernel::MSIX as usize].0 |= kernel::NO_RESIZE;
        }
        let regions = said.regions.clone();
        let kernel = Kernel::new(said);
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK).expect("a descriptor"));
        let device = Device::new(Box::new(kernel.clone())).ok()?;
        let opened = Opened::fake(device, bell).ok()?;
        let abilities = opened.abilities();
        let secret = abilities.msix.map(|layout| secret(&layout, &regions)).unwrap_or_default();
        let machine = Machine::new(kernel.clone(), abilities.vectors(), secret);
        let (memory, io) = (Arc::<Space>::default(), Arc::<Space>::default());
        let spaces = GuestSpaces {
            memory: Arc::clone(&memory),
            io: Arc::clone(&io),
            windows: Arc::new(machine.clone()),
            apertures: Apertures { io: PORTS, mem32: LOW, mem64: HIGH },
        };
        let line = opened.pin().map(|_| Box::new(Pin::new(&machine)) as Box<_>);
        let ends = (Box::new(machine.clone()) as Box<_>, line, choices);
        let function = Arc::new(opened.finish(spaces, ends, unmapped));
        let bus = Arc::<Bus>::default();
        let place = bus.reserve(None).expect("a free slot").occupy(Arc::clone(&function) as Arc<_>);
        let (ecam, ports) = (Ecam::new(Arc::clone(&bus)), ConfigPorts::new(Arc::clone(&bus)));
        let at = u64::from(place.number()) << SLOT_SHIFT;
        let msix = abilities.msix;
        Some(Self { function, machine, kernel, msix, ecam, ports, memory, io, at })
    }

    /// The guest reads configuration space.
    pub fn read(&self, register: u16, data: &mut [u8]) {
        self.ecam.read(self.at | u64::from(register) % EXPRESS_SIZE as u64, data);
    }

    /// The guest reads an aligned doubleword of configuration space.
    pub fn dword(&self, register: u16) -> u32 {
        let mut data = [0; 4];
        self.read(register & !3, &mut data);
        u32::from_le_bytes(data)
    }

    /// The guest writes configuration space.
    pub fn write(&self, register: u16, data: &[u8]) {
        self.ecam.write(self.at | u64::from(register) % EXPRESS_SIZE as u64, data);
    }

    /// The same through the two ports.
    pub fn write_through_ports(&self, register: u8, data: &[u8]) {
        let device = u32::try_from(self.at >> SLOT_SHIFT << 11).expect("one of 32 slots");
        let address = 1 << 31 | device | u32::from(register & !3);
        self.ports.write(0, &address.to_le_bytes());
        self.ports.write(4 + u64::from(register % 4), data);
        let mut back = vec![0; data.len()];
        self.ports.read(4 + u64::from(register % 4), &mut back);
    }

    /// The guest puts BAR `index` at the `step`th of 16 places.
    pub fn place(&self, index: u8, step: u8) {
        let register = BAR0 + u16::from(index % 6) * 4;
        let kind = self.dword(register);
        let step = u64::from(step % 16);
        let address = match kind & 7 {
            io if io & 1 != 0 => PORTS.start + (step << 8),
            4 => HIGH.start + (step << 32),
            _ => LOW.start + (step << 24),
        };
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        self.write(register, &[a, b, c, d]);
        if kind & 7 == 4 && register < BAR0 + 20 {
            self.write(register + 4, &[e, f, g, h]);
        }
    }

    /// Where BAR `index` is now, by its own registers; whether in memory.
    pub fn address(&self, index: u8) -> (u64, bool) {
        let register = BAR0 + u16::from(index % 6) * 4;
        let low = self.dword(register);
        match low & 7 {
            io if io & 1 != 0 => (u64::from(low & !3), false),
            4 if register < BAR0 + 20 => {
                (u64::from(self.dword(register + 4)) << 32 | u64::from(low & !0xf), true)
            }
            _ => (u64::from(low & !0xf), true),
        }
    }

    /// The guest reads in BAR `index`; whether anything answers there.
    pub fn read_bar(&self, index: u8, offset: u64, data: &mut [u8]) -> bool {
        let (base, memory) = self.address(index);
        let space = if memory { &self.memory } else { &self.io };
        space.read(base.wrapping_add(offset), data)
    }

    /// The guest writes in BAR `index`.
    pub fn write_bar(&self, index: u8, offset: u64, data: &[u8]) {
        let (base, memory) = self.address(index);
        let space = if memory { &self.memory } else { &self.io };
        space.write(base.wrapping_add(offset), data);
    }

    /// What must hold between any two steps.
    pub fn check(&self) {
        let command = self.dword(COMMAND);
        if command & u32::from(COMMAND_MEMORY) == 0 {
            assert_eq!(self.machine.windows(), 0, "windows while memory is not decoded");
            for index in (0..6).filter(|index| self.address(*index).1) {
                assert!(!self.read_bar(index, 0, &mut [0]), "BAR {index} answers undecoded");
            }
        }
        let line = self.kernel.active() == Some(0);
        assert!(!line || self.machine.line_connected(), "a line on one side only");
    }

    /// Takes the function out; the host has everything back.
    pub fn clear(self) {
        let Self { function, machine, kernel, ecam, ports, memory, io, .. } = self;
        drop((ecam, ports));
        assert_eq!(Arc::strong_count(&function), 1, "nobody else holds the function");
        drop(function);
        assert_eq!(machine.windows(), 0, "windows of a function that is gone");
        assert_eq!(kernel.active(), None, "interrupts of a function that is gone");
        assert!(!machine.line_connected(), "the line of a function that is gone");
        for (space, range) in [(io, PORTS), (memory.clone(), LOW), (memory, HIGH)] {
            let (start, length) = (range.start, range.end - range.start);
            let whole = space.claim(start, length, Arc::new(Nobody));
            assert!(whole.is_ok(), "addresses of a function that is gone");
        }
    }
}

/// Bytes of the device's file where MSI-X has its table and Pending bits.
fn secret(layout: &MsixLayout, regions: &[Option<Vec<u32>>; kernel::REGIONS]) -> Vec<Range<u64>> {
    let parts = [(layout.table, layout.table_size()), (layout.pending, layout.pending_size())];
    let place = |(at, size): (devices::vfio::config::Location, u64)| {
        let start = kernel::place(regions[at.bar].as_deref()?).start + at.offset;
        Some(start..start + size)
    };
    parts.into_iter().filter_map(place).collect()
}

struct Nobody;

impl Access for Nobody {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}
    fn write(&self, _offset: u64, _data: &[u8]) {}
}
