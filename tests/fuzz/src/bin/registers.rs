//! A hostile guest at the registers that are hotbay's own: serial port, hot-plug, power, keyboard
//! controller, and configuration space where no function is.
//!
//! Held to: the hot-plug registers do what a model of three words does, slot 0 is never given back;
//! power and reset are asked for by the documented values only; what the guest sends on the serial
//! port comes out, whole and in order; what nobody answers reads as ones.

#![no_main]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use devices::console::{Backend, Console};
use devices::io::Access;
use devices::legacy::i8042::{FIRST_PORT, I8042, PORTS};
use devices::legacy::serial::Uart;
use devices::pci::bus::Bus;
use devices::pci::ecam::Ecam;
use devices::pci::ports::ConfigPorts;
use devices::platform::power::{self, Events, Power, PowerEvent};
use devices::platform::slots::{COUNT, Slots};
use fuzz::draw::Draw;
use libfuzzer_sys::fuzz_target;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

thread_local! {
    /// Its sockets and descriptors are made once in a process; the port is reset for each input.
    static SERIAL: std::cell::RefCell<Serial> = std::cell::RefCell::new(Serial::new());
}

fuzz_target!(|input: &[u8]| {
    let mut draw = Draw::new(input);
    let mut board = Board::new();
    SERIAL.with_borrow_mut(|serial| {
        serial.reset();
        while !draw.is_empty() {
            step(&mut board, serial, &mut draw);
        }
        serial.settle();
    });
});

/// What was asked for.
#[derive(Default)]
struct Asked(Mutex<Vec<PowerEvent>>);

impl Events for Asked {
    fn post(&self, event: PowerEvent) {
        self.0.lock().expect("one thread").push(event);
    }
}

/// All but the serial port, and what the hot-plug registers should hold.
struct Board {
    slots: Slots,
    up: u32,
    down: u32,
    ejected: u32,
    asked: Arc<Asked>,
    power: Power,
    keyboard: I8042,
    ecam: Ecam,
    ports: ConfigPorts,
}

impl Board {
    fn new() -> Self {
        let asked = Arc::<Asked>::default();
        let bus = Arc::<Bus>::default();
        let interrupt = EventFd::new(EFD_NONBLOCK).expect("a descriptor");
        Self {
            slots: Slots::new(interrupt).expect("a descriptor"),
            up: 0,
            down: 0,
            ejected: 0,
            power: Power::new(Arc::clone(&asked) as Arc<_>),
            keyboard: I8042::new(Arc::clone(&asked) as Arc<_>),
            asked,
            ecam: Ecam::new(Arc::clone(&bus)),
            ports: ConfigPorts::new(bus),
        }
    }

    /// The guest's access to the hot-plug registers, here and in the model.
    fn write_slots(&mut self, offset: u64, data: &[u8]) {
        self.slots.write(offset, data);
        let mut registers = [0; 12];
        for (at, byte) in (offset..=u64::MAX).zip(data).filter(|(at, _)| *at < 12) {
            registers[at as usize] = *byte;
        }
        let word = |at: usize| u32::from_le_bytes(registers[at..at + 4].try_into().expect("four"));
        self.up &= !word(0);
        self.down &= !word(4);
        self.ejected |= word(8) & !1;
    }

    fn assert_slots(&mut self) {
        let mut registers = [0; 16];
        self.slots.read(0, &mut registers);
        let expected = [self.up, self.down, 0, u32::MAX].map(u32::to_le_bytes);
        assert_eq!(registers, expected.as_flattened(), "hot-plug registers");
        let ejected = self.slots.take_ejected().fold(0, |bits, slot| bits | 1_u32 << slot);
        assert_eq!(ejected, std::mem::take(&mut self.ejected), "ejected slots");
        assert_eq!(self.slots.remind(), self.up | self.down != 0, "something to remind of");
    }

    /// A write to the power registers asks for what its bytes say, and nothing else.
    fn write_power(&self, offset: u64, data: &[u8]) {
        self.power.write(offset, data);
        let asks = |(at, byte): (u64, &u8)| match (at, *byte) {
            (power::RESET, power::RESET_VALUE) => Some(PowerEvent::Reset),
            (power::SLEEP_CONTROL, byte) if byte & 0x3c == 0x34 => Some(PowerEvent::Off),
            _ => None,
        };
        let expected: Vec<_> = (offset..=u64::MAX).zip(data).filter_map(asks).collect();
        assert_eq!(std::mem::take(&mut *self.asked.0.lock().expect("one thread")), expected);
    }

    fn write_keyboard(&self, offset: u64, data: &[u8]) {
        self.keyboard.write(offset, data);
        let resets = offset == PORTS - 1 && data == [0xfe];
        let asked = std::mem::take(&mut *self.asked.0.lock().expect("one thread"));
        assert_eq!(asked, vec![PowerEvent::Reset; usize::from(resets)], "port {FIRST_PORT:#x}");
    }

    /// Slot 0 has the host bridge; nothing else is there.
    fn configuration(&self, offset: u64, data: &[u8]) {
        let mut back = vec![0x5a; data.len()];
        self.ecam.write(offset, data);
        self.ecam.read(offset, &mut back);
        let bridge = offset < 1 << 12;
        assert!(bridge || back.iter().all(|byte| *byte == 0xff), "ECAM {offset:#x}: {back:?}");
        self.ports.write(offset % 16, data);
        self.ports.read(offset % 16, &mut back);
    }
}

/// A serial port with a peer, and what the peer should hear.
struct Serial {
    uart: Arc<Uart>,
    console: Console,
    peer: UnixStream,
    expected: Vec<u8>,
    divisor_latch: bool,
    loop_back: bool,
}

impl Serial {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("serial");
        let listener = UnixListener::bind(&path).expect("a socket");
        let interrupt = EventFd::new(EFD_NONBLOCK).expect("a descriptor");
        let uart = Arc::new(Uart::new(interrupt).expect("a port"));
        let backend = Backend::Socket(listener);
        let mut console = Console::new(backend, Arc::clone(&uart) as _).expect("a console");
        let peer = UnixStream::connect(path).expect("a connection");
        peer.set_nonblocking(true).expect("a socket that does not block");
        console.ready();
        let expected = Vec::new();
        Self { uart, console, peer, expected, divisor_latch: false, loop_back: false }
    }

    fn reset(&mut self) {
        self.uart.reset().expect("descriptors");
        (self.divisor_latch, self.loop_back) = (false, false);
        self.settle();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.uart.write(offset, data);
        for (register, byte) in (offset..8).zip(data) {
            match register {
                0 if !self.divisor_latch && !self.loop_back => self.expected.push(*byte),
                3 => self.divisor_latch = byte & 0x80 != 0,
                4 => self.loop_back = byte & 0x10 != 0,
                _ => {}
            }
        }
    }

    /// The peer has heard all, and its own words are read or still on the line.
    fn settle(&mut self) {
        self.console.ready();
        let mut heard = Vec::new();
        match self.peer.read_to_end(&mut heard) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => panic!("the port hung up: {other:?}"),
        }
        assert_eq!(heard, std::mem::take(&mut self.expected), "what the guest sent");
    }
}

fn step(board: &mut Board, serial: &mut Serial, draw: &mut Draw<'_>) {
    let (what, offset) = (draw.byte(), u64::from(draw.byte()));
    let mut data = [0; 8];
    let length = usize::from(what >> 4) % 9;
    match what % 16 {
        0..4 => serial.write(offset % 9, draw.bytes(length)),
        4..6 => serial.uart.read(offset % 9, &mut data[..length]),
        6 => {
            // A full line is the peer's to wait for.
            let _ = serial.peer.write(draw.bytes(length));
            serial.settle();
        }
        7..9 => board.write_slots(offset % 16, draw.bytes(length)),
        9 => {
            let slot = offset as u8 % COUNT;
            board.slots.added(slot);
            board.up |= 1 << slot;
            board.down &= !(1 << slot);
        }
        10 => {
            let slot = offset as u8 % COUNT;
            board.slots.remove(slot);
            board.down |= 1 << slot;
        }
        11 => board.assert_slots(),
        12 => board.write_power(offset % 5, draw.bytes(length)),
        13 => board.write_keyboard(offset % 6, draw.bytes(length)),
        14 => board.configuration(offset << 8 | u64::from(draw.byte()), draw.bytes(length)),
        _ => {
            // Far out: nothing is there.
            let far = draw.qword() | 1 << 16;
            board.slots.write(far, &data[..length]);
            board.write_power(far, &[power::RESET_VALUE; 4]);
            serial.uart.read(far, &mut data[..length]);
            assert!(data[..length].iter().all(|byte| *byte == 0xff), "serial at {far:#x}");
        }
    }
}
