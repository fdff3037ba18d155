use super::*;
use crate::irq::{Message, Route};
use crate::pci::msix::{ENABLE, FUNCTION_MASK};
use crate::virtio::testing::Notes;

const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x41 };
const QUEUE: Source = Source::Queue(0);

/// Interrupts of a device with one queue, which has vector 1 of 2.
fn scene() -> (Notes, Interrupts) {
    let notes = Notes::new(2);
    let interrupts = Interrupts::new(Box::new(notes.clone()), 1);
    interrupts.map(QUEUE, 1);
    (notes, interrupts)
}

/// Writes the entry of `vector`, unmasked.
fn program(interrupts: &Interrupts, vector: u64) {
    let entry = vector * 16;
    interrupts.write_table(entry, &MESSAGE.address.to_le_bytes());
    interrupts.write_table(entry + 8, &MESSAGE.data.to_le_bytes());
    interrupts.write_table(entry + 12, &[0; 4]);
}

fn pending(interrupts: &Interrupts) -> u64 {
    let mut bits = [0; 8];
    interrupts.read_pending(0, &mut bits);
    u64::from_le_bytes(bits)
}

#[test]
fn queue_with_a_live_vector_is_signalled() {
    let (notes, interrupts) = scene();
    interrupts.write_control(ENABLE);
    program(&interrupts, 1);

    interrupts.signal(QUEUE);

    assert_eq!(notes.route(1), Route::To(MESSAGE));
    assert_eq!((notes.taken(1), pending(&interrupts)), (1, 0));
}

#[test]
fn masked_vector_keeps_its_event_as_a_pending_bit() {
    let (notes, interrupts) = scene();
    program(&interrupts, 1);
    for masked in [ENABLE | FUNCTION_MASK, ENABLE] {
        interrupts.write_control(masked);
        interrupts.write_table(16 + 12, &[1, 0, 0, 0]);

        interrupts.signal(QUEUE);

        assert_eq!((notes.route(1), pending(&interrupts)), (Route::Masked, 0b10));
        interrupts.write_table(16 + 12, &[0; 4]);
        interrupts.write_control(ENABLE);
        assert_eq!(notes.route(1), Route::To(MESSAGE));
        assert_eq!(notes.taken(1), 1, "it was kept until now");
    }
}

#[test]
fn vector_that_is_mapped_when_it_is_live_already_is_delivered() {
    let notes = Notes::new(2);
    let interrupts = Interrupts::new(Box::new(notes.clone()), 1);
    interrupts.write_control(ENABLE);
    program(&interrupts, 1);
    assert_eq!(notes.route(1), Route::Masked, "nothing can fire it yet");

    interrupts.map(QUEUE, 1);

    assert_eq!(notes.route(1), Route::To(MESSAGE));
}

#[test]
fn vector_that_is_not_there_reads_back_as_none() {
    let (notes, interrupts) = scene();
    interrupts.map(QUEUE, 2);
    interrupts.write_control(ENABLE);

    interrupts.signal(QUEUE);

    assert_eq!(interrupts.mapped(QUEUE), NO_VECTOR);
    assert_eq!((notes.taken(0), notes.taken(1)), (0, 0));
}

#[test]
fn without_msix_the_isr_status_tells_and_reading_clears_it() {
    let (notes, interrupts) = scene();

    interrupts.signal(QUEUE);
    interrupts.signal(Source::Configuration);

    assert_eq!((interrupts.take_isr(), interrupts.take_isr()), (3, 0));
    assert_eq!(notes.taken(1), 0);
}

#[test]
fn what_was_pending_is_forgotten_when_msix_goes_off_and_when_the_driver_resets() {
    let (notes, interrupts) = scene();
    for forget in [(|i| i.write_control(0)) as fn(&Interrupts), Interrupts::forget_mapping] {
        interrupts.map(QUEUE, 1);
        interrupts.write_control(ENABLE);
        interrupts.signal(QUEUE);
        assert_eq!(pending(&interrupts), 0b10);

        forget(&interrupts);

        interrupts.write_control(ENABLE);
        assert_eq!((pending(&interrupts), notes.taken(1)), (0, 0));
    }
    assert_eq!(interrupts.mapped(QUEUE), NO_VECTOR);
}

#[test]
fn test_interrupt_wants_a_vector_in_use() {
    let (notes, interrupts) = scene();
    assert!(!interrupts.fire(1), "MSI-X is off");
    interrupts.write_control(ENABLE);

    assert!(interrupts.fire(1) && !interrupts.fire(0) && !interrupts.fire(9));

    assert_eq!(notes.taken(1), 1);
}

#[test]
fn view_shows_vectors_that_something_is_mapped_to() {
    let (_, interrupts) = scene();
    interrupts.write_control(ENABLE);
    interrupts.signal(QUEUE);

    let view = interrupts.view();

    assert_eq!((view.mode, view.msix.map(|msix| msix.table_size)), (Mode::Msix, Some(2)));
    let shown: Vec<_> = view.vectors.iter().map(|v| (v.vector, v.pending, v.guest.live)).collect();
    assert_eq!(shown, [(1, true, false)]);
}
