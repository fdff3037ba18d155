//! A virtio device as the guest's bus drives it: configuration space, and a BAR that
//! goes where the guest puts it (virtio 1.2, 4.1.3 and 4.1.4.9).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::io::{Access, Doorbell, Doorbells};
use crate::irq::Vectors;
use crate::pci::bar::{Bars, Kind, Placement};
use crate::pci::config::{
    self, COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE, COMMAND_MEMORY, INTERRUPT_LINE,
};
use crate::pci::{self, msix};
use crate::space::Claim;
use crate::vfio::bars::GuestSpaces;
use crate::vfio::interrupts::View;
use crate::virtio::layout::{
    self, BAR, BAR_SIZE, MSIX_AT, NOTIFY_STEP, Part, WINDOW_BAR, WINDOW_DATA, WINDOW_LENGTH,
    WINDOW_OFFSET,
};
use crate::virtio::transport::Transport;
use crate::virtio::{Device, Memory, Worker};

const COMMAND_BITS: u16 = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;
const LAST_BAR_REGISTER: u16 = config::BAR0 + 5 * 4;

/// A device of ours in a slot of the guest's.
///
/// Drop it, or [`Function::end`] it, and its workers return.
pub struct Function {
    header: Mutex<Header>,
    transport: Arc<Transport>,
    spaces: GuestSpaces,
    doorbells: Arc<dyn Doorbells>,
}

/// What a device needs of the machine.
pub struct Machine {
    /// Vectors, one more than the device has queues.
    pub vectors: Box<dyn Vectors>,
    /// The guest's RAM.
    pub memory: Memory,
    /// Where the BAR goes.
    pub spaces: GuestSpaces,
    /// How queues are notified.
    pub doorbells: Arc<dyn Doorbells>,
}

/// Configuration space. Fields are in teardown order.
struct Header {
    placed: Option<Placed>,
    bars: Bars,
    image: Box<[u8]>,
    command: u16,
    line: u8,
    window: Window,
}

/// The BAR at an address. Fields are in teardown order.
struct Placed {
    at: Placement,
    _doorbells: Vec<Box<dyn Doorbell>>,
    _claim: Claim,
}

/// What the PCI configuration access capability points to.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    bar: u32,
    offset: u32,
    length: u32,
}

impl Function {
    /// Vectors to borrow for `device`.
    pub fn vectors(device: &dyn Device) -> u16 {
        u16::try_from(device.queues().len() + 1).unwrap_or(msix::MOST_VECTORS)
    }

    /// As after power-on. Each worker wants a thread of its own.
    ///
    /// # Errors
    /// The host has no descriptor for its queues.
    pub fn new(device: Arc<dyn Device>, machine: Machine) -> io::Result<(Self, Vec<Worker>)> {
        let Machine { vectors, memory, spaces, doorbells } = machine;
        let mut bars = Bars::new();
        bars.declare(BAR, Kind::Memory32 { prefetchable: false }, BAR_SIZE);
        let header = Header {
            placed: None,
            bars,
            image: layout::configuration_space(device.identity()),
            command: 0,
            line: 0,
            window: Window::default(),
        };
        let (transport, workers) = Transport::new(device, vectors, memory)?;
        let (header, transport) = (Mutex::new(header), Arc::new(transport));
        Ok((Self { header, transport, spaces, doorbells }, workers))
    }

    /// As after power-on: it reads and writes no memory any more. Waits for requests
    /// under way, so it is not for a vCPU.
    pub fn reset(&self) {
        let mut header = self.lock();
        header.placed = None;
        header.bars.reset();
        (header.command, header.line, header.window) = (0, 0, Window::default());
        drop(header);
        self.transport.reset();
    }

    /// The workers return, each after the request that it is doing.
    pub fn end(&self) {
        self.transport.end();
    }

    /// Its interrupts as they are now.
    pub fn interrupts(&self) -> View {
        self.transport.interrupts().view()
    }

    /// The device's configuration is another one now; the driver is told.
    pub fn configuration_changes(&self) {
        self.transport.configuration_changes();
    }

    /// Fires `vector` as a worker would; false if the driver does not use it.
    pub fn fire(&self, vector: u16) -> bool {
        self.transport.interrupts().fire(vector)
    }

    /// What it has done so far, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.transport.device().counters();
        counters.extend(self.transport.counters());
        counters
    }

    fn lock(&self) -> MutexGuard<'_, Header> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The doubleword at `at`, a multiple of four.
    fn dword(&self, header: &Header, at: u16) -> u32 {
        let fixed = config::dword(&header.image, at);
        match at {
            config::COMMAND => fixed | u32::from(header.command),
            config::BAR0..=LAST_BAR_REGISTER => header.bars.read(bar_register(at)),
            INTERRUPT_LINE => fixed | u32::from(header.line),
            WINDOW_BAR => header.window.bar,
            WINDOW_OFFSET => header.window.offset,
            WINDOW_LENGTH => header.window.length,
            MSIX_AT => fixed | u32::from(self.transport.interrupts().control()) << 16,
            _ => fixed,
        }
    }

    fn set_dword(&self, header: &mut Header, at: u16, value: u32) {
        let [a, b, c, d] = value.to_le_bytes();
        match at {
            config::COMMAND => {
                header.command = u16::from_le_bytes([a, b]) & COMMAND_BITS;
                self.place(header);
            }
            config::BAR0..=LAST_BAR_REGISTER => {
                header.bars.write(bar_register(at), value);
                self.place(header);
            }
            INTERRUPT_LINE => header.line = a,
            WINDOW_BAR => header.window.bar = a.into(),
            WINDOW_OFFSET => header.window.offset = value,
            WINDOW_LENGTH => header.window.length = value,
            MSIX_AT => self.transport.write_control(u16::from_le_bytes([c, d])),
            _ => {}
        }
    }

    /// Puts the BAR where the registers say. One that collides with something else
    /// answers nothing until the guest moves it.
    fn place(&self, header: &mut Header) {
        let wanted = header.bars.placements(header.command, &self.spaces.apertures)[BAR];
        if header.placed.as_ref().map(|placed| placed.at) == wanted {
            return;
        }
        header.placed = None;
        let Some(at) = wanted else { return };
        let access: Arc<dyn Access> = self.transport.clone();
        match self.spaces.memory.claim(at.base, at.size, access) {
            Ok(claim) => {
                let doorbells = self.ring_at(at.base + Part::Notify.place().0);
                header.placed = Some(Placed { at, _doorbells: doorbells, _claim: claim });
            }
            // At the guest's choice, so no louder: it could fill the log.
            Err(error) => log::debug!("virtio BAR at {:#x}: {error}", at.base),
        }
    }

    /// Doorbells from `base` on; without one, a notification takes an exit and works.
    fn ring_at(&self, base: u64) -> Vec<Box<dyn Doorbell>> {
        let addresses = (0..).map(|index| base + index * NOTIFY_STEP);
        let bells = addresses.zip(self.transport.bells());
        let place = |(address, bell)| {
            let placed = self.doorbells.place(address, bell);
            placed.inspect_err(|error| log::debug!("no doorbell at {address:#x}: {error}")).ok()
        };
        bells.filter_map(place).collect()
    }
}

impl Window {
    /// Where it points to, if there is something (4.1.4.9.1).
    fn target(self) -> Option<(u64, usize)> {
        let length = usize::try_from(self.length).ok()?;
        let plain = self.bar == 0 && matches!(length, 1 | 2 | 4);
        let aligned = usize::try_from(self.offset).ok()?.is_multiple_of(length.max(1));
        (plain && aligned).then_some((self.offset.into(), length))
    }
}

fn bar_register(at: u16) -> usize {
    usize::from((at - config::BAR0) / 4)
}

impl pci::Function for Function {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let (at, within) = (offset & !3, usize::from(offset & 3));
        let header = self.lock();
        let mut bytes = self.dword(&header, at).to_le_bytes();
        if at == WINDOW_DATA
            && let Some((target, length)) = header.window.target()
        {
            self.transport.read(target, &mut bytes[..length]);
        }
        data.iter_mut().zip(&bytes[within..]).for_each(|(to, from)| *to = *from);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let (at, within) = (offset & !3, usize::from(offset & 3));
        let mut header = self.lock();
        let mut bytes = self.dword(&header, at).to_le_bytes();
        bytes[within..].iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        match header.window.target() {
            Some((target, length)) if at == WINDOW_DATA => {
                self.transport.write(target, &bytes[..length]);
            }
            _ => self.set_dword(&mut header, at, u32::from_le_bytes(bytes)),
        }
    }
}

impl Drop for Function {
    /// Nobody finds the BAR any more, but a vCPU may still be inside an access. It must
    /// not be the last that holds the device: closing is not a vCPU's business.
    fn drop(&mut self) {
        self.lock().placed = None;
        self.transport.end();
        while Arc::strong_count(&self.transport) > 1 {
            thread::yield_now();
        }
        self.transport.interrupts().reset();
    }
}

#[cfg(test)]
mod tests;
