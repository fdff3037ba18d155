use super::*;

const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x41 };
const UNMASK: [u8; 4] = [0; 4];
const MASK: [u8; 4] = [1, 0, 0, 0];

/// Four vectors, enabled; vector 1 has [`MESSAGE`] and is masked.
fn enabled() -> Msix {
    let mut msix = Msix::new(4);
    program(&mut msix, 1, MESSAGE);
    assert_eq!(msix.write_control(ENABLE), []);
    msix
}

fn program(msix: &mut Msix, vector: u64, message: Message) {
    let base = vector * ENTRY_SIZE;
    msix.write(base, &message.address.to_le_bytes());
    msix.write(base + 8, &message.data.to_le_bytes());
}

fn dword(msix: &Msix, offset: u64) -> u32 {
    let mut data = [0; 4];
    msix.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn wakes(vector: u16, message: Message) -> Change {
    Change { vector, route: Route::To(message) }
}

fn sleeps(vector: u16) -> Change {
    Change { vector, route: Route::Masked }
}

#[test]
fn table_after_reset_is_masked_and_zero() {
    let msix = Msix::new(2048);

    for vector in [0, 1, 2047] {
        let words: Vec<u32> = (0..4).map(|i| dword(&msix, vector * 16 + i * 4)).collect();
        assert_eq!(words, [0, 0, 0, 1], "vector {vector}");
    }
    assert_eq!(msix.control(), 2047);
}

#[test]
fn enabling_with_all_masked_wakes_nobody() {
    assert_eq!(Msix::new(8).write_control(ENABLE | FUNCTION_MASK), []);
}

#[test]
fn unmask_delivers_and_mask_silences() {
    let mut msix = enabled();

    assert_eq!(msix.write(28, &UNMASK), Some(wakes(1, MESSAGE)));
    assert_eq!(msix.write(28, &UNMASK), None, "unmasked already");
    assert_eq!(msix.write(28, &MASK), Some(sleeps(1)));
}

#[test]
fn vectors_unmasked_under_the_function_mask_wake_together() {
    let mut msix = enabled();
    assert_eq!(msix.write_control(ENABLE | FUNCTION_MASK), []);
    assert_eq!(msix.write(28, &UNMASK), None);
    assert_eq!(msix.write(44, &UNMASK), None);

    assert_eq!(msix.write_control(ENABLE), [wakes(1, MESSAGE), wakes(2, Message::default())]);
    assert_eq!(msix.write_control(ENABLE | FUNCTION_MASK), [sleeps(1), sleeps(2)]);
}

#[test]
fn function_mask_toggled_while_disabled_is_remembered() {
    let mut msix = enabled();
    msix.write_control(FUNCTION_MASK);
    msix.write(28, &UNMASK);

    assert_eq!(msix.control(), 3 | FUNCTION_MASK);
    assert_eq!(msix.write_control(ENABLE | FUNCTION_MASK), []);
    assert_eq!(msix.write_control(ENABLE), [wakes(1, MESSAGE)]);
}

#[test]
fn old_entries_are_live_again_after_disable_and_enable() {
    let mut msix = enabled();
    msix.write(28, &UNMASK);

    assert_eq!(msix.write_control(0), [sleeps(1)]);
    assert_eq!(msix.write_control(ENABLE), [wakes(1, MESSAGE)]);
}

#[test]
fn quadword_of_data_and_control_is_one_change() {
    let mut msix = enabled();
    let mut data = [0; 8];
    data[0] = 0x77;

    let change = msix.write(24, &data);

    assert_eq!(change, Some(wakes(1, Message { data: 0x77, ..MESSAGE })));
}

#[test]
fn message_changed_while_live_is_old_or_new_and_never_a_mix() {
    let mut msix = enabled();
    msix.write(28, &UNMASK);

    assert_eq!(msix.write(16, &0xfee0_2000_u32.to_le_bytes()), None);
    assert_eq!(dword(&msix, 16), 0xfee0_2000, "the guest reads what it wrote");
    let new = Message { address: 0xfee0_2000, data: 0x42 };
    assert_eq!(msix.write(24, &0x42_u32.to_le_bytes()), Some(wakes(1, new)));
}

#[test]
fn message_changed_while_masked_counts_from_the_unmask() {
    let mut msix = enabled();
    msix.write(28, &UNMASK);
    msix.write(28, &MASK);
    let new = Message { address: 0xfee0_3000, data: 0x43 };

    program(&mut msix, 1, new);

    assert_eq!(msix.write(28, &UNMASK), Some(wakes(1, new)));
}

#[test]
fn odd_sizes_and_offsets_change_nothing_and_read_as_ones() {
    let mut msix = enabled();
    let image: Vec<u32> = (0..16).map(|i| dword(&msix, i * 4)).collect();

    for (offset, length) in [(28, 1), (28, 2), (29, 4), (20, 8), (16, 3), (16, 16), (64, 4)] {
        assert_eq!(msix.write(offset, &vec![0; length]), None, "{length} at {offset}");
        let mut data = vec![0; length];
        msix.read(offset, &mut data);
        assert!(data.iter().all(|byte| *byte == 0xff), "{length} at {offset}");
    }

    assert_eq!((0..16).map(|i| dword(&msix, i * 4)).collect::<Vec<_>>(), image);
}

#[test]
fn reserved_bits_do_not_stick() {
    let mut msix = Msix::new(1);

    msix.write(0, &0xfee0_0003_u32.to_le_bytes());
    msix.write(12, &u32::MAX.to_le_bytes());
    msix.write_control(u16::MAX);

    assert_eq!((dword(&msix, 0), dword(&msix, 12)), (0xfee0_0000, 1));
    assert_eq!(msix.control(), ENABLE | FUNCTION_MASK);
}

#[test]
fn reset_forgets_everything_but_the_size() {
    let mut msix = enabled();
    msix.write(28, &UNMASK);

    msix.reset();

    assert_eq!(msix.control(), 3);
    let masked = View { message: Message::default(), masked: true, live: false };
    assert_eq!(msix.view(1), Some(masked));
    assert_eq!(msix.view(4), None);
}
