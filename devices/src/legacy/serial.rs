//! A 16550 serial port: the guest's half of it. What it is connected to is [`crate::console`]'s.
//!
//! The guest's output goes out on the vCPU's own thread as long as the other
//! side takes it. Registers are `vm-superio`'s.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::console::{Output, Port};
use crate::io::Access;

/// Interrupt Enable Register.
const IER: u8 = 1;
/// Received data available.
const IER_RECEIVED: u8 = 1 << 0;
/// Interrupt Identification Register.
const IIR: u8 = 2;
/// No interrupt is pending.
const IIR_NONE: u8 = 1 << 0;
/// Received data available.
const IIR_RECEIVED: u8 = 1 << 2;
/// Line Control Register.
const LCR: u8 = 3;
/// The first two registers are the divisor (DLAB).
const LCR_DIVISOR: u8 = 1 << 7;
/// Line Status Register.
const LSR: u8 = 5;
/// There is a byte to read.
const LSR_DATA_READY: u8 = 1 << 0;

/// The guest's half: eight registers of one byte. Its lock is never held
/// across anything that can wait.
pub struct Uart {
    device: Mutex<Device>,
    /// Written whenever the guest has read all input there was.
    drained: EventFd,
}

type Device = vm_superio::Serial<Event, Drained, Output>;

/// The guest's interrupt.
struct Event(EventFd);

impl Trigger for Event {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The guest's progress, for the console.
struct Drained(EventFd);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        // Fails only when the count is full; the console then wakes up anyway.
        let _ = self.0.write(1);
    }
}

impl Uart {
    /// A port that is connected to nothing yet. Writing `interrupt` must raise
    /// the port's line in the guest.
    pub fn new(interrupt: EventFd) -> io::Result<Self> {
        let drained = EventFd::new(EFD_NONBLOCK)?;
        let events = Drained(drained.try_clone()?);
        let device = Device::with_events(Event(interrupt), events, Output::default());
        Ok(Self { device: Mutex::new(device), drained })
    }

    /// Registers as after power-on, input forgotten; what the guest sent before
    /// still goes out.
    pub fn reset(&self) -> io::Result<()> {
        let mut device = self.lock();
        let interrupt = Event(device.interrupt_evt().0.try_clone()?);
        let events = Drained(self.drained.try_clone()?);
        let output = std::mem::take(device.writer_mut());
        *device = Device::with_events(interrupt, events, output);
        device.events().in_buffer_empty();
        Ok(())
    }

    /// What interrupts now. Input does until its last byte is read (16550D data sheet, table IV), which `vm-superio`
    /// forgets at the first: a driver that reads so much at a time, as Linux does (256 bytes, `serial8250_rx_chars`), would
    /// leave the rest for ever, since a FIFO that is full receives nothing that could interrupt again.
    fn identify(device: &mut Device) -> u8 {
        let found = device.read(IIR);
        let unread = found & IIR_NONE != 0 && device.read(LSR) & LSR_DATA_READY != 0;
        if unread && Self::interrupts_for_input(device) {
            (found & !IIR_NONE) | IIR_RECEIVED
        } else {
            found
        }
    }

    /// While the divisor has the place of the Interrupt Enable Register, nobody can tell: a driver that sets the
    /// divisor is not in its handler, and asks again there.
    fn interrupts_for_input(device: &mut Device) -> bool {
        device.read(LCR) & LCR_DIVISOR == 0 && device.read(IER) & IER_RECEIVED != 0
    }

    fn lock(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port for Uart {
    fn drained(&self) -> &EventFd {
        &self.drained
    }

    fn room(&self) -> usize {
        self.lock().fifo_capacity()
    }

    /// A guest that has the port in loop-back mode receives nothing, as on a real line.
    fn receive(&self, input: &[u8]) {
        if let Err(error) = self.lock().enqueue_raw_bytes(input) {
            log::warn!("serial: input of {} bytes is lost: {error}", input.len());
        }
    }

    fn with_output(&self, act: &mut dyn FnMut(&mut Output)) {
        act(self.lock().writer_mut());
    }
}

/// An access of several bytes is one of each register, as on the ISA bus.
impl Access for Uart {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        for (at, byte) in registers(offset).zip(data) {
            let mut device = self.lock();
            *byte = if at == IIR { Self::identify(&mut device) } else { device.read(at) };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (at, byte) in registers(offset).zip(data) {
            if let Err(error) = self.lock().write(at, *byte) {
                log::debug!("serial: register {at}: {error}");
            }
        }
    }
}

/// The registers from `offset` on.
fn registers(offset: u64) -> impl Iterator<Item = u8> {
    const REGISTERS: u8 = 8;
    u8::try_from(offset).unwrap_or(REGISTERS)..REGISTERS
}

#[cfg(test)]
mod tests;
