use super::*;

/// 64-bit, maskable, four vectors capable.
const CONTROL_WORD: u16 = WIDE | MASKABLE | 2 << MULTIPLE_CAPABLE_SHIFT;
const ADDRESS: u64 = 0xfee0_4000;

fn programmed() -> Msi {
    let mut msi = Msi::new(CONTROL_WORD);
    msi.write(4, &u32::try_from(ADDRESS).unwrap().to_le_bytes());
    msi.write(8, &0_u32.to_le_bytes());
    msi.write(12, &0x50_u16.to_le_bytes());
    msi
}

fn to(vector: u16, data: u32) -> Change {
    Change { vector, route: Route::To(Message { address: ADDRESS, data }) }
}

#[test]
fn length_follows_the_abilities() {
    let lengths = [0, WIDE, MASKABLE, WIDE | MASKABLE].map(|control| Msi::new(control).length());

    assert_eq!(lengths, [10, 14, 20, 24]);
}

#[test]
fn enabling_two_vectors_delivers_the_number_in_the_low_data_bits() {
    let mut msi = programmed();

    let changes = msi.write(2, &(ENABLE | 1 << MULTIPLE_ENABLE_SHIFT).to_le_bytes());

    assert_eq!(changes, [to(0, 0x50), to(1, 0x51)]);
}

#[test]
fn more_vectors_than_capable_are_not_enabled() {
    let mut msi = programmed();

    msi.write(2, &(ENABLE | 5 << MULTIPLE_ENABLE_SHIFT).to_le_bytes());

    assert_eq!(msi.in_use(), 4);
}

#[test]
fn mask_bit_silences_one_vector_and_pending_reads_back() {
    let mut msi = programmed();
    msi.write(2, &(ENABLE | 1 << MULTIPLE_ENABLE_SHIFT).to_le_bytes());

    let changes = msi.write(16, &2_u32.to_le_bytes());

    assert_eq!(changes, [Change { vector: 1, route: Route::Masked }]);
    let mut data = [0; 4];
    msi.read(20, 2, &mut data);
    assert_eq!(u32::from_le_bytes(data), 2);
    assert_eq!(msi.write(20, &u32::MAX.to_le_bytes()), [], "Pending is read-only");
}

#[test]
fn mask_bits_of_vectors_that_do_not_exist_do_not_stick() {
    let mut msi = programmed();

    msi.write(16, &u32::MAX.to_le_bytes());

    let mut data = [0; 4];
    msi.read(16, 0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0xf, "four vectors");
}

#[test]
fn one_byte_write_of_control_counts() {
    let mut msi = programmed();

    assert_eq!(msi.write(2, &[1]), [to(0, 0x50)]);
    assert_eq!(msi.write(2, &[0]), [Change { vector: 0, route: Route::Masked }]);
}

#[test]
fn new_address_waits_for_its_data() {
    let mut msi = programmed();
    msi.write(2, &ENABLE.to_le_bytes());

    assert_eq!(msi.write(4, &0xfee0_5000_u32.to_le_bytes()), []);
    let new = Message { address: 0xfee0_5000, data: 0x60 };
    let change = Change { vector: 0, route: Route::To(new) };
    assert_eq!(msi.write(12, &0x60_u16.to_le_bytes()), [change]);
}

#[test]
fn read_only_bits_stay_and_accesses_past_the_end_are_harmless() {
    let mut msi = programmed();

    msi.write(2, &u16::MAX.to_le_bytes());
    assert_eq!(msi.write(22, &[0xff; 4]), []);

    let mut data = [0; 2];
    msi.read(2, 0, &mut data);
    let enabled = CONTROL_WORD | ENABLE | 2 << MULTIPLE_ENABLE_SHIFT;
    assert_eq!(u16::from_le_bytes(data), enabled);
}

#[test]
fn high_byte_of_the_data_alone_completes_a_message() {
    let mut msi = programmed();
    msi.write(2, &ENABLE.to_le_bytes());

    assert_eq!(msi.write(13, &[0x71]), [to(0, 0x7150)]);
}
