use std::io;
use std::ops::Range;

use devices::io::Access;
use devices::memory::{Backing, Window, Windows};
use devices::pci::bar::Apertures;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::memory::windows::shared;

/// Slots of a segment: the host bridge has one of the 32.
const SLOTS: usize = 31;
const MEM64: Range<u64> = 0x40_0000_0000..0x80_0000_0000;
const FIRST: Segment = Segment::new(0).unwrap();
const SECOND: Segment = Segment::new(1).unwrap();
const ADDRESS: Address = Address { segment: SECOND, slot: Slot::new(3).unwrap() };

/// Registers for the guest: slots with news (up), slots to be given back (down), slots it gives back (eject).
const UP: u64 = 0;
const DOWN: u64 = 4;
const EJECT: u64 = 8;

struct NoWindows;

impl Windows for NoWindows {
    fn open(&self, _guest: u64, _backing: Backing) -> io::Result<Box<dyn Window>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn root(apertures: Apertures) -> Root {
    let windows = Arc::new(NoWindows);
    let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
    Root {
        bus: Arc::default(),
        slots: Arc::new(Slots::new(interrupt).unwrap()),
        spaces: GuestSpaces { memory: Arc::default(), io: Arc::default(), windows, apertures },
    }
}

fn two_segments() -> Roots {
    Roots::new(shared(2, &MEM64).into_iter().map(root).collect())
}

impl Roots {
    fn register(&self, segment: Segment, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.root(segment).unwrap().slots.read(offset, &mut data);
        u32::from_le_bytes(data)
    }
}

#[test]
fn each_segment_has_room_for_31_functions() {
    let mut roots = two_segments();
    let mut fill =
        |segment| -> Vec<_> { (0..SLOTS).map(|_| roots.reserve(segment, None).unwrap()).collect() };

    let (first, second) = (fill(FIRST), fill(SECOND));

    let addresses = first.iter().chain(&second).map(|place| place.address.to_string());
    let expected = (0..2).flat_map(|n| (1..32).map(move |slot| format!("{n:04x}:00:{slot:02x}.0")));
    assert!(addresses.eq(expected));
    assert_eq!(roots.free_slots(), 0);
    let full = PlaceError::NoSlot(SECOND, SlotError::Full);
    assert_eq!(roots.reserve(SECOND, None).err(), Some(full));

    drop(first);

    assert_eq!(roots.free_slots(), SLOTS);
    assert!(roots.reserve(FIRST, None).is_ok());
    assert_eq!(roots.reserve(SECOND, None).err(), Some(full), "that is another bus");
}

#[test]
fn same_slot_can_be_had_on_each_segment_and_only_once() {
    let mut roots = two_segments();
    let slot = Some(ADDRESS.slot);
    let _held = [roots.reserve(FIRST, slot).unwrap(), roots.reserve(SECOND, slot).unwrap()];

    let error = roots.reserve(SECOND, slot).err();

    assert_eq!(error, Some(PlaceError::NoSlot(SECOND, SlotError::Taken(ADDRESS.slot))));
}

#[test]
fn segment_that_is_not_there_is_named_with_the_remedy() {
    let text = two_segments().reserve(Segment::new(2).unwrap(), None).err().unwrap().to_string();

    assert!(text.starts_with("there is no PCI segment 2, the VM has 2: "), "{text}");
    assert!(text.ends_with("a higher num_pci_segments"), "{text}");
}

#[test]
fn function_gets_its_segment_s_windows() {
    let place = two_segments().reserve(SECOND, None).unwrap();

    assert_eq!(place.spaces.apertures.mem32, shared(2, &MEM64)[1].mem32);
}

#[test]
fn guest_is_told_on_the_segment_and_heard_from_it() {
    let roots = two_segments();
    let bit: u32 = 1 << ADDRESS.slot.number();

    roots.added(ADDRESS);
    roots.remove(ADDRESS);

    assert_eq!((roots.register(SECOND, UP), roots.register(SECOND, DOWN)), (bit, bit));
    assert_eq!((roots.register(FIRST, UP), roots.register(FIRST, DOWN)), (0, 0));
    assert!(roots.remind());

    roots.root(SECOND).unwrap().slots.write(EJECT, &bit.to_le_bytes());

    assert_eq!(roots.take_ejected(), [ADDRESS]);
    assert_eq!(roots.take_ejected(), []);
}
