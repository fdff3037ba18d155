//! A hostile device: capability lists that loop, end early or lie, regions of any size with any
//! areas, tables outside of BARs, counts that contradict each other.
//!
//! Held to: it is refused, or a guest can be given it without harm. No access leaves a region, no
//! page of the MSI-X table is shown, the guest's own walk over the lists ends and meets nothing that
//! it must not see, and everything is given back.

#![no_main]

use std::collections::BTreeSet;

use devices::pci::bar::ROM;
use devices::pci::capability::{
    self, ADVANCED_FEATURES, ARI, ENHANCED_ALLOCATION, EXPRESS, EXTENDED_START, Extended, MSI,
    MSIX, POWER, RESIZABLE_BAR, SRIOV, VF_RESIZABLE_BAR,
};
use devices::pci::config::{
    BAR0, CAPABILITIES, COMMAND, HEADER_TYPE, INTERRUPT_PIN, MULTI_FUNCTION, ROM_BAR, STATUS,
};
use devices::vfio::interrupts::Choices;
use fuzz::draw::Draw;
use fuzz::kernel::{CONFIG, INDICES, REGIONS, Said};
use fuzz::slot::Slot;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut draw = Draw::new(input);
    let said = said(&mut draw);
    let choices = Choices { no_resize: draw.flag(), exact_pending: draw.flag() };
    let Some(slot) = Slot::new(said, choices, &[draw.byte() % 8]) else { return };
    assert_lists_are_harmless(&slot);
    for index in 0..6 {
        slot.place(index, index);
    }
    slot.write(COMMAND, &[7, 0]);
    slot.check();
    while !draw.is_empty() {
        step(&slot, &mut draw);
        slot.check();
    }
    slot.clear();
});

/// What kernel and device say.
fn said(draw: &mut Draw<'_>) -> Said {
    const SMALL: usize = 0x100;
    const LARGE: usize = 0x1000;
    let size = if draw.flag() { LARGE } else { SMALL };
    let mut said = Said { filler: draw.byte(), ..Said::default() };
    said.config = vec![0; size];
    put(&mut said.config, BAR0.into(), draw.bytes(24));
    put(&mut said.config, INTERRUPT_PIN.into(), &[draw.byte() % 8]);
    lists(&mut said.config, draw);
    for _ in 0..draw.byte() % 8 {
        let (at, length) = (usize::from(draw.word()) % size, usize::from(draw.byte() % 8));
        put(&mut said.config, at, draw.bytes(length + 1));
    }
    said.regions = std::array::from_fn(|index| region(draw, index));
    if draw.byte() % 16 != 0 {
        said.regions[CONFIG] = Some(plain(CONFIG, size as u64, 3));
    }
    for index in 0..INDICES {
        said.interrupts[index] = (draw.byte().into(), draw.word().into());
    }
    said.resettable = draw.byte() % 4 != 0;
    if !said.resettable {
        said.neighbours = (0..8).map(|_| draw.dword()).collect();
    }
    said.refusals = draw.bytes(3).iter().map(|byte| byte % 4 == 3).collect();
    said
}

fn put(config: &mut [u8], at: usize, bytes: &[u8]) {
    let place = config.get_mut(at..).unwrap_or_default();
    place.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
}

/// Lists of capabilities that are known, in good order for what comes after to spoil.
fn lists(config: &mut [u8], draw: &mut Draw<'_>) {
    const KNOWN: [u8; 6] = [POWER, MSI, EXPRESS, MSIX, ADVANCED_FEATURES, ENHANCED_ALLOCATION];
    const KNOWN_EXTENDED: [u16; 4] = [ARI, SRIOV, RESIZABLE_BAR, VF_RESIZABLE_BAR];
    const ROOM: [u8; 4] = [0x10, 0x40, 0x20, 0x0c];
    put(config, STATUS.into(), &[0x10]);
    let mut at = 0x40_u8;
    put(config, CAPABILITIES.into(), &[at]);
    for _ in 0..draw.byte() % 6 {
        let (id, next) = (draw.byte(), at.wrapping_add(ROOM[usize::from(draw.byte() % 4)]));
        put(config, at.into(), &[KNOWN[usize::from(id) % KNOWN.len()], next]);
        put(config, usize::from(at) + 2, draw.bytes(10));
        at = next;
    }
    let mut at = EXTENDED_START;
    for _ in 0..draw.byte() % 4 {
        let id = KNOWN_EXTENDED[usize::from(draw.byte() % 4)].to_le_bytes();
        let next = (at + 0x40) << 4 | 1;
        put(config, at.into(), &[id, next.to_le_bytes()].concat());
        at += 0x40;
    }
}

fn region(draw: &mut Draw<'_>, index: usize) -> Option<Vec<u32>> {
    let kind = draw.byte();
    match kind % 8 {
        0 => None,
        1..4 => Some(plain(index, 1 << (draw.byte() % 40), u32::from(kind >> 4))),
        4..6 => Some(sparse(draw, index)),
        _ => {
            let count = usize::from(draw.byte() % 32) + 8;
            Some((0..count).map(|_| draw.dword()).collect())
        }
    }
}

/// An honest region, readable, writable and mappable by its flags.
fn plain(index: usize, size: u64, flags: u32) -> Vec<u32> {
    let (start, halves) = ((index as u64) << 40, |long: u64| [long as u32, (long >> 32) as u32]);
    let head = [32, flags, index as u32, 0];
    [&head[..], &halves(size), &halves(start)].concat()
}

/// A region with a list of areas that may be mapped.
fn sparse(draw: &mut Draw<'_>, index: usize) -> Vec<u32> {
    const MAPPABLE: u32 = 7;
    const WITH_CAPABILITIES: u32 = 8;
    const SPARSE: u32 = 1;
    let mut words = plain(index, u64::from(draw.dword()), MAPPABLE | WITH_CAPABILITIES);
    let areas = draw.byte() % 4;
    words[3] = 32;
    words.extend([SPARSE | 1 << 16, u32::from(draw.byte() % 64), areas.into(), 0]);
    for _ in 0..areas {
        let (at, size) = (u64::from(draw.word()) << 8, u64::from(draw.word()) << 8);
        words.extend([at as u32, (at >> 32) as u32, size as u32, (size >> 32) as u32]);
    }
    words[0] = words.len() as u32 * 4;
    words
}

/// What a guest does to it, without much of a plan.
fn step(slot: &Slot, draw: &mut Draw<'_>) {
    let (what, register, value) = (draw.byte(), draw.word(), draw.dword().to_le_bytes());
    let size = [1, 2, 4][usize::from(what >> 4) % 3];
    let mut back = [0; 8];
    match what % 8 {
        0 => write_bar_register(slot, register, value),
        1 => slot.write(register, &value[..size]),
        2 => slot.read(register, &mut back[..size]),
        3 => slot.write_bar(what >> 4, register.into(), &value[..size]),
        4 => drop(slot.read_bar(what >> 4, register.into(), &mut back[..size])),
        5 => slot.place(what >> 4, value[0]),
        6 => drop(slot.machine.fire(register % 64)),
        _ => {
            // The interesting places of the table it claims to have.
            let Some(layout) = slot.msix else { return };
            let at = layout.table.offset + u64::from(register % layout.count) * 16 + 12;
            slot.write_bar(layout.table.bar as u8, at, &value);
        }
    }
}

/// A write to one base address register changes no other.
fn write_bar_register(slot: &Slot, index: u16, value: [u8; 4]) {
    let registers: Vec<u16> = (0..6).map(|bar| BAR0 + bar * 4).chain([ROM_BAR]).collect();
    let written = registers[usize::from(index) % registers.len()];
    let others = || registers.iter().filter(|other| **other != written).map(|r| slot.dword(*r));
    let before: Vec<u32> = others().collect();
    slot.write(written, &value);
    assert!(others().eq(before), "a write to {written:#x} changes another register");
}

/// The guest walks both lists: nothing in them is the host's alone.
fn assert_lists_are_harmless(slot: &Slot) {
    let header_type = slot.dword(HEADER_TYPE & !3).to_le_bytes()[2];
    assert_eq!(header_type & MULTI_FUNCTION, 0, "a lone function");
    let pointer = |dword: u32| u16::try_from(dword >> 20 & 0xffc).expect("12 bits");
    let (mut seen, mut at) = (BTreeSet::new(), EXTENDED_START);
    while at >= EXTENDED_START && seen.insert(at) {
        let header = slot.dword(at);
        let id = u16::try_from(header & 0xffff).expect("16 bits");
        let hidden = capability::hidden_length(&[], Extended { id, offset: at });
        assert!(hidden.is_none(), "capability {id:#x} at {at:#x} is the host's");
        at = pointer(header);
    }
    let layout = slot.msix.iter().flat_map(|msix| [msix.table.bar, msix.pending.bar]);
    assert!(layout.max().is_none_or(|bar| bar < ROM), "a table in no BAR");
}

const _: () = assert!(REGIONS > CONFIG);
