use super::*;

/// An endpoint: power management at 0x40, MSI at 0x50, Express at 0x70, MSI-X
/// at 0xb0; SR-IOV at 0x100 and an error report at 0x140.
fn image() -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x00, &0x10d3_8086_u32.to_le_bytes());
    put(0x06, &0x0010_u16.to_le_bytes());
    put(0x0e, &[0x80]);
    put(0x34, &[0x40]);
    put(0x3c, &[11, 1]);
    put(0x40, &[0x01, 0x50, 0x22, 0xc8]);
    put(0x50, &[0x05, 0x70, 0x80, 0x00]);
    put(0x70, &[0x10, 0xb0, 0x02, 0x00]);
    put(0x74, &FUNCTION_RESET_CAPABLE.to_le_bytes());
    put(0x7c, &[0xff; 4]);
    put(0xb0, &[0x11, 0x00, 0x04, 0x80, 0x03, 0, 0, 0, 0x03, 0x20, 0, 0]);
    put(0x100, &[0x10, 0x00, 0x01, 0x14]);
    put(0x104, &[0xaa; 0x3c]);
    put(0x140, &[0x01, 0x00, 0x01, 0x00]);
    image
}

fn fields(config: &Config, offset: u16, length: usize) -> Vec<Field> {
    config.pieces(offset, length).into_iter().map(|(field, ..)| field).collect()
}

fn read_dword(config: &Config, offset: u16) -> u32 {
    let mut data = [0; 4];
    config.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn header_registers_are_ours_but_for_the_status() {
    let config = Config::new(image());

    assert_eq!(fields(&config, 0x00, 4), [Field::Fixed]);
    assert_eq!(fields(&config, 0x04, 4), [Field::Command, Field::Device]);
    assert_eq!(fields(&config, 0x18, 4), [Field::Bar(2)]);
    assert_eq!(fields(&config, 0x30, 4), [Field::Bar(6)]);
    assert_eq!(fields(&config, 0x3c, 4), [Field::Scratch, Field::Fixed]);
}

#[test]
fn lone_function_does_not_claim_to_have_neighbours() {
    assert_eq!(read_dword(&Config::new(image()), 0x0c) >> 16 & 0xff, 0);
}

#[test]
fn interrupt_capabilities_are_ours_and_their_layout_is_read() {
    let config = Config::new(image());

    assert_eq!(fields(&config, 0x50, 4), [Field::Fixed, Field::Msi(0x50)]);
    assert_eq!(fields(&config, 0x5e, 2), [Field::Device], "after 14 bytes");
    assert_eq!(fields(&config, 0xb0, 4), [Field::Fixed, Field::MsixControl]);
    assert_eq!(config.msi_control(), Some(0x80));
    let layout = MsixLayout {
        count: 5,
        table: Location { bar: 3, offset: 0 },
        pending: Location { bar: 3, offset: 0x2000 },
    };
    assert_eq!(config.msix(), Some(layout));
}

#[test]
fn endpoint_on_the_root_bus_has_no_link() {
    let config = Config::new(image());

    assert_eq!(read_dword(&config, 0x70) >> 20 & 0xf, u32::from(TYPE_ROOT_ENDPOINT));
    assert_eq!(read_dword(&config, 0x7c), 0, "link capabilities");
    assert_eq!(fields(&config, 0x78, 4), [Field::DeviceControl, Field::Device]);
    assert!(config.has_function_reset());
}

#[test]
fn hidden_capability_is_null_and_empty_and_the_list_goes_on() {
    let config = Config::new(image());

    assert_eq!(read_dword(&config, 0x100), 0x1400_0000 & 0xfff0_0000);
    assert_eq!(read_dword(&config, 0x104), 0);
    assert_eq!(fields(&config, 0x13c, 4), [Field::Fixed]);
    assert_eq!(fields(&config, 0x140, 4), [Field::Fixed]);
    assert_eq!(fields(&config, 0x144, 4), [Field::Device]);
}

#[test]
fn registers_without_a_capability_belong_to_the_device() {
    let config = Config::new(image());

    assert_eq!(fields(&config, 0xe0, 4), [Field::Device]);
    assert_eq!(fields(&config, 0xffc, 4), [Field::Device]);
}

#[test]
fn any_bytes_make_a_space_whose_accesses_are_covered() {
    for byte in 0..=u8::MAX {
        for size in [64, 256, 4096] {
            let config = Config::new(vec![byte; size]);
            for offset in (0..0x1000).step_by(4) {
                let covered: usize =
                    config.pieces(offset, 4).iter().map(|(.., range)| range.len()).sum();
                assert_eq!(covered, 4);
            }
        }
    }
}

#[test]
fn scratch_reads_back_and_past_the_end_reads_zero() {
    let mut config = Config::new(image()[..0x100].to_vec());

    config.write_scratch(0x3c, &[9]);

    assert_eq!(read_dword(&config, 0x3c), 0x109);
    assert_eq!(read_dword(&config, 0x100), 0);
}

/// Message control of MSI-X after the guest's write, if it was `old`.
fn control_after(old: u16, offset: u16, data: &[u8]) -> u32 {
    let config = Config::new(image());
    let pieces = config.cut(offset, data);
    let control = pieces.iter().find(|piece| piece.field == Field::MsixControl);
    control.map_or(old.into(), |piece| piece.merge(old.into()))
}

#[test]
fn case_14_control_writes_of_one_two_and_four_bytes_have_the_same_effect() {
    let (enable, both) = (0x8004, 0xc004);

    assert_eq!(control_after(4, 0xb2, &[0x04, 0x80]), enable);
    assert_eq!(control_after(4, 0xb3, &[0x80]), enable);
    assert_eq!(control_after(4, 0xb0, &[0, 0, 0x04, 0x80]), enable, "the first two are fixed");
    assert_eq!(control_after(4, 0xb2, &[0x04, 0xc0, 0xff, 0xff]), both, "so are those that follow");
    assert_eq!(control_after(0x8004, 0xb3, &[0xc0]), both);
    assert_eq!(control_after(0xc004, 0xb2, &[0x04]), both, "the low byte alone changes nothing");
    assert_eq!(control_after(0xc004, 0xb0, &[0x11, 0x00]), both, "nor does the header");
}
