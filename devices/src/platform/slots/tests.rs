//! The registers, one sentence a test.

use super::*;

const UP: u64 = 0;
const DOWN: u64 = 4;
const EJECT: u64 = 8;

/// Registers and the other end of the guest's interrupt.
fn scene() -> (Slots, EventFd) {
    let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
    (Slots::new(interrupt.try_clone().unwrap()).unwrap(), interrupt)
}

fn read(slots: &Slots, offset: u64) -> u32 {
    let mut data = [0; 4];
    slots.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write(slots: &Slots, offset: u64, value: u32) {
    slots.write(offset, &value.to_le_bytes());
}

fn ejected(slots: &Slots) -> Vec<u8> {
    slots.take_ejected().collect()
}

#[test]
fn added_device_shows_in_up_and_raises_the_interrupt() {
    let (slots, interrupt) = scene();
    slots.added(3);
    assert_eq!((read(&slots, UP), read(&slots, DOWN)), (1 << 3, 0));
    assert_eq!(interrupt.read().unwrap(), 1);
}

#[test]
fn guest_takes_the_bits_it_has_seen_and_later_ones_stay() {
    let (slots, _interrupt) = scene();
    slots.added(3);
    let seen = read(&slots, UP);
    slots.added(4);
    write(&slots, UP, seen);
    assert_eq!(read(&slots, UP), 1 << 4);
}

#[test]
fn removal_is_requested_as_often_as_one_likes() {
    let (slots, interrupt) = scene();
    slots.remove(31);
    slots.remove(31);
    assert_eq!(read(&slots, DOWN), 1 << 31);
    assert_eq!(interrupt.read().unwrap(), 2);
}

#[test]
fn ejecting_wakes_the_event_loop_once_per_slot() {
    let (slots, _interrupt) = scene();
    write(&slots, EJECT, 1 << 5);
    write(&slots, EJECT, 1 << 5 | 1 << 31);
    assert_eq!(ejected(&slots), [5, 31]);
    assert_eq!(ejected(&slots), []);
    assert!(slots.wake.read().is_err());
}

#[test]
fn host_bridge_can_not_be_ejected() {
    let (slots, _interrupt) = scene();
    write(&slots, EJECT, 1);
    assert!(slots.wake.read().is_err());
    assert_eq!(ejected(&slots), []);
}

#[test]
fn new_device_is_not_removed_by_the_request_for_the_old_one() {
    let (slots, _interrupt) = scene();
    slots.remove(2);
    slots.added(2);
    assert_eq!((read(&slots, UP), read(&slots, DOWN)), (1 << 2, 0));
}

#[test]
fn reminder_repeats_the_interrupt_until_the_guest_has_looked() {
    let (slots, interrupt) = scene();
    slots.added(7);
    interrupt.read().unwrap();
    assert!(slots.remind());
    assert_eq!(interrupt.read().unwrap(), 1);
    write(&slots, UP, 1 << 7);
    assert!(!slots.remind());
    assert!(interrupt.read().is_err());
}

#[test]
fn reset_and_force_forget() {
    let (slots, _interrupt) = scene();
    slots.added(1);
    slots.remove(2);
    write(&slots, EJECT, 1 << 2);
    slots.forget(2);
    assert_eq!((read(&slots, UP), read(&slots, DOWN), ejected(&slots)), (1 << 1, 0, vec![]));
    slots.reset();
    assert!(!slots.remind());
}

#[test]
fn parts_of_registers_are_read_and_written_in_place() {
    let (slots, _interrupt) = scene();
    slots.added(9);
    slots.remove(8);
    let mut data = [0; 8];
    slots.read(1, &mut data);
    assert_eq!(data, [2, 0, 0, 0, 1, 0, 0, 0]);
    slots.write(1, &[2]);
    assert_eq!((read(&slots, UP), read(&slots, DOWN)), (0, 1 << 8));
}

#[test]
fn accesses_past_the_end_and_slots_past_the_last_mean_nothing() {
    let (slots, _interrupt) = scene();
    slots.added(32);
    slots.write(12, &[0xff; 8]);
    slots.write(u64::MAX, &[0xff; 8]);
    let mut data = [0; 8];
    slots.read(8, &mut data);
    assert_eq!(data, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    slots.read(u64::MAX, &mut data);
    assert_eq!((read(&slots, UP), ejected(&slots)), (0, vec![]));
}
