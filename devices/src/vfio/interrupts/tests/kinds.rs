//! MSI and INTx, and how the three kinds give way to each other.

use super::*;

#[test]
fn msi_takes_all_its_vectors_at_once_and_masks_one_by_one() {
    let scene = scene(true);
    scene.interrupts.write_msi(4, &0xfee0_1000_u32.to_le_bytes());
    scene.interrupts.write_msi(12, &0x50_u16.to_le_bytes());

    scene.interrupts.write_msi(2, &0x11_u16.to_le_bytes());
    assert_eq!(scene.heard(), ["wire Msi 0 ++", "+0:0x50 +1:0x51"]);
    scene.interrupts.write_msi(16, &1_u32.to_le_bytes());
    assert_eq!(scene.heard(), ["-0"]);
    scene.signal(0);
    let mut pending = [0; 4];
    scene.interrupts.read_msi(20, &mut pending);
    assert_eq!(u32::from_le_bytes(pending), 1);
    scene.interrupts.write_msi(2, &0_u16.to_le_bytes());
    assert_eq!(scene.heard(), ["unwire Msi", "reset"]);
}

#[test]
fn line_gives_way_to_msix_and_comes_back() {
    let scene = scene_with_line();

    scene.interrupts.allow_line(true);
    assert_eq!(scene.heard(), ["line on", "wire Intx 0 +", "unmask on resample"]);
    scene.interrupts.write_msix_control(ENABLE);
    assert_eq!(scene.heard(), ["unwire Intx", "line off", "reset", "wire Msix 0 -"]);
    scene.interrupts.write_msix_control(0);
    let back = ["unwire Msix", "line off", "reset", "line on", "wire Intx 0 +"];
    assert_eq!(scene.heard()[..5], back);
    scene.interrupts.allow_line(false);
    assert_eq!(scene.heard(), ["unwire Intx", "line off", "reset"]);
}

#[test]
fn msi_enabled_beside_msix_waits_until_that_goes_off() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);
    scene.heard();

    scene.interrupts.write_msi(2, &1_u16.to_le_bytes());
    assert!(scene.heard().is_empty(), "one index, and vector 1 is still live");
    scene.interrupts.write_msix_control(0);
    assert_eq!(scene.heard(), ["unwire Msix", "reset", "wire Msi 0 +", "+0:0x0"]);
    scene.interrupts.write_msix_control(ENABLE);
    assert_eq!(scene.heard(), ["unwire Msi", "reset", "wire Msix 0 -", "wire Msix 1 +", "+1:0x41"]);
}

#[test]
fn line_is_seen_and_fired_as_vector_0() {
    let scene = scene_with_line();
    scene.interrupts.allow_line(true);

    let view = scene.interrupts.view();
    scene.interrupts.fire(0).unwrap();

    assert_eq!((view.mode, view.host_mode), (Mode::Intx, Mode::Intx));
    assert_eq!(view.line, Some(LineView { number: 16, allowed: true, wired: true }));
    assert_eq!(scene.heard().pop().unwrap(), "fire Intx 0");
    assert!(matches!(scene.interrupts.fire(1), Err(FireError::Off(1))));
}
