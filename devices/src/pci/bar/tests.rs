use super::*;

const PREFETCH: Kind = Kind::Memory64 { prefetchable: true };
const PLAIN: Kind = Kind::Memory32 { prefetchable: false };

fn apertures() -> Apertures {
    Apertures { io: 0x1000..0x1_0000, mem32: 0xc000_0000..0xe000_0000, mem64: 1 << 36..1 << 38 }
}

fn one(index: usize, kind: Kind, size: u64) -> Bars {
    let mut bars = Bars::new();
    bars.declare(index, kind, size);
    bars
}

#[test]
fn size_probing_reads_back_the_size_mask() {
    let mut bars = one(0, PLAIN, 0x2_0000);

    bars.write(0, u32::MAX);

    assert_eq!(bars.read(0), 0xfffe_0000);
}

#[test]
fn size_probing_of_64_bits_uses_both_registers() {
    let mut bars = one(2, PREFETCH, 1 << 33);

    bars.write(2, u32::MAX);
    bars.write(3, u32::MAX);

    assert_eq!((bars.read(2), bars.read(3)), (0xc, 0xffff_fffe));
}

#[test]
fn io_bar_shows_its_flag_and_keeps_four_byte_granularity() {
    let mut bars = one(1, Kind::Io, 32);

    bars.write(1, u32::MAX);

    assert_eq!(bars.read(1), 0xffff_ffe1);
}

#[test]
fn registers_without_a_bar_read_zero() {
    let mut bars = one(0, PLAIN, 0x1000);

    bars.write(1, u32::MAX);
    bars.write(6, u32::MAX);

    assert_eq!((bars.read(1), bars.read(6), bars.read(9)), (0, 0, 0));
}

#[test]
fn bar_answers_only_while_memory_decoding_is_on() {
    let mut bars = one(0, PLAIN, 0x1000);
    bars.write(0, 0xc010_0000);

    assert_eq!(bars.placements(COMMAND_IO, &apertures())[0], None);
    assert_eq!(
        bars.placements(COMMAND_MEMORY, &apertures())[0],
        Some(Placement { space: Space::Memory, base: 0xc010_0000, size: 0x1000 })
    );
}

#[test]
fn bar_outside_the_bridge_windows_answers_nothing() {
    let mut bars = one(0, PREFETCH, 0x1000);

    for address in [0_u64, 0x1000, 0xfee0_0000, 0xffff_f000, 1 << 39, !0xfff] {
        bars.write(0, low(address));
        bars.write(1, high(address));
        assert_eq!(bars.placements(COMMAND_MEMORY, &apertures())[0], None, "{address:#x}");
    }
    bars.write(0, 0);
    bars.write(1, high(1 << 36));
    assert!(bars.placements(COMMAND_MEMORY, &apertures())[0].is_some());
}

#[test]
fn rom_needs_its_own_enable_bit_as_well() {
    let mut bars = one(ROM, Kind::Rom, 0x1_0000);

    bars.write(ROM, 0xc000_0000);
    assert_eq!(bars.placements(COMMAND_MEMORY, &apertures())[ROM], None);
    bars.write(ROM, 0xc000_0001);

    assert!(bars.placements(COMMAND_MEMORY, &apertures())[ROM].is_some());
    assert_eq!(bars.read(ROM), 0xc000_0001);
    bars.write(ROM, 0xffff_f800);
    assert_eq!(bars.read(ROM), 0xffff_0000, "the enable bit is no address bit");
}

#[test]
fn reset_unplaces_every_bar() {
    let mut bars = one(0, PLAIN, 0x1000);
    bars.write(0, 0xc010_0000);

    bars.reset();

    assert_eq!(bars.read(0), 0);
}

#[test]
fn register_of_the_rom_is_no_upper_half_of_the_last_bar() {
    let mut bars = one(5, PREFETCH, 0x1000);
    bars.write(5, 0xc010_0000);

    bars.write(ROM, 0x10);

    assert_eq!(bars.read(5), 0xc010_000c);
    let placed = bars.placements(COMMAND_MEMORY, &apertures())[5];
    assert_eq!(placed.map(|placed| placed.base), Some(0xc010_0000));
}
