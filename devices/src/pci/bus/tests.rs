use super::*;

const FIVE: Option<Slot> = Slot::new(5);

struct Silent;

impl Function for Silent {
    fn read_config(&self, _offset: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&self, _offset: u16, _data: &[u8]) {}
}

#[test]
fn dropped_reservation_frees_its_slot() {
    let bus = Arc::new(Bus::default());

    drop(bus.reserve(FIVE).unwrap());

    assert!(bus.reserve(FIVE).is_ok());
}

#[test]
fn reserved_slot_is_refused_by_number() {
    let bus = Arc::new(Bus::default());
    let _held = bus.reserve(FIVE).unwrap();

    let error = bus.reserve(FIVE).err().unwrap();

    assert!(error.to_string().starts_with("PCI slot 5 is taken"));
}

#[test]
fn unnamed_device_gets_the_first_slot_after_the_host_bridge() {
    let bus = Arc::new(Bus::default());

    assert_eq!(bus.reserve(None).unwrap().slot().number(), 1);
}

#[test]
fn full_bus_says_so() {
    let bus = Arc::new(Bus::default());
    let _held: Vec<_> = (1..Slot::COUNT).map(|_| bus.reserve(None).unwrap()).collect();

    assert_eq!(bus.reserve(None).err(), Some(SlotError::Full));
    assert_eq!(bus.free_slots(), 0);
}

#[test]
fn evicted_function_leaves_its_slot_reserved_until_it_is_gone() {
    let bus = Arc::new(Bus::default());
    let slot = bus.reserve(FIVE).unwrap().occupy(Arc::new(Silent));

    let (_function, place) = bus.evict(slot).unwrap();
    assert!(bus.function(slot).is_none());
    assert_eq!(bus.reserve(FIVE).err(), Some(SlotError::Taken(slot)));
    drop(place);

    assert!(bus.reserve(FIVE).is_ok());
}
