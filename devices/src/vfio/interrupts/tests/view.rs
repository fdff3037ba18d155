//! What is shown of it all.

use super::*;

#[test]
fn view_shows_every_vector_that_is_not_as_after_reset() {
    let scene = scene(true);
    assert_eq!(scene.interrupts.view().vectors, []);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);
    scene.program(3, 1);
    scene.signal(3);

    let view = scene.interrupts.view();

    assert_eq!((view.mode, view.host_mode), (Mode::Msix, Mode::Msix));
    let msix = MsixView { table_size: 5, enabled: true, function_masked: false };
    assert_eq!(view.msix, Some(msix));
    let [live, masked] = view.vectors[..] else { panic!("{view:?}") };
    assert_eq!((live.vector, live.guest.message, live.guest.live), (1, MESSAGE, true));
    assert_eq!(live.delivery, Delivery { way: Way::Routed, number: Some(25), relayed: 1 });
    assert!(live.wired && !live.pending);
    assert_eq!((masked.vector, masked.guest.masked, masked.guest.live), (3, true, false));
    assert!(masked.pending && !masked.wired);
}

#[test]
fn view_shows_the_function_mask_and_what_is_pending_under_it() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(0, 0);
    scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);
    scene.signal(0);

    let view = scene.interrupts.view();

    assert!(view.msix.is_some_and(|msix| msix.function_masked));
    let vector = view.vectors[0];
    assert_eq!((vector.guest.masked, vector.guest.live, vector.pending), (false, false, true));
}

#[test]
fn view_shows_a_vector_that_the_host_has_refused() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.host.refuses.lock().unwrap().insert(2);
    scene.program(2, 0);

    let vector = scene.interrupts.view().vectors[0];

    assert!(vector.guest.live && !vector.wired);
}

#[test]
fn view_of_msi_shows_the_vectors_in_use_as_they_are_sent() {
    let scene = scene(true);
    scene.interrupts.write_msi(4, &0xfee0_1000_u32.to_le_bytes());
    scene.interrupts.write_msi(12, &0x50_u16.to_le_bytes());
    scene.interrupts.write_msi(2, &0x11_u16.to_le_bytes());
    scene.interrupts.write_msi(16, &1_u32.to_le_bytes());

    let view = scene.interrupts.view();

    assert_eq!((view.mode, view.msi), (Mode::Msi, Some(MsiView { capable: 4, in_use: 2 })));
    let data: Vec<_> =
        view.vectors.iter().map(|v| (v.guest.message.data, v.guest.masked, v.wired)).collect();
    assert_eq!(data, [(0x50, true, true), (0x51, false, true)]);
}
