//! `x_exact_pending`.

use super::*;

#[test]
fn exact_mask_stops_delivery_and_then_the_device_and_unmask_goes_back_the_same_way() {
    for grows in [true, false] {
        let scene = exact_scene(grows);
        scene.interrupts.write_msix_control(ENABLE);
        scene.program(0, 0);
        scene.heard();

        scene.program(0, 1);
        assert_eq!(scene.heard(), ["-0", "wire Msix 0 -"]);
        assert!(matches!(scene.interrupts.fire(0), Err(FireError::Off(0))));
        scene.program(0, 0);
        assert_eq!(scene.heard(), ["wire Msix 0 +", "+0:0x41"]);
        scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);
        assert_eq!(scene.heard(), ["-0", "wire Msix 0 -"]);
        scene.interrupts.write_msix_control(0);
        assert_eq!(scene.heard(), ["unwire Msix", "reset"]);
    }
}

#[test]
fn exact_pending_bit_is_the_devices_own_or_of_an_event_that_was_on_its_way() {
    let scene = exact_scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(2, 0);
    scene.program(2, 1);
    let own = |bits: u8| *scene.host.device_pending.lock().unwrap() = bits;

    own(1 << 2);
    assert_eq!(scene.pending(), 1 << 2);
    assert!(scene.interrupts.view().vectors[0].pending);
    own(0);
    assert_eq!(scene.pending(), 0, "its cause is gone");
    scene.signal(2);
    assert_eq!(scene.pending(), 1 << 2, "it was on its way");
    scene.heard();
    scene.program(2, 0);
    assert_eq!(scene.heard(), ["wire Msix 2 +", "+2:0x41"], "delivered from the count");
}

#[test]
fn exact_unmask_leaves_the_message_to_a_device_that_will_send_one() {
    let scene = exact_scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(2, 0);
    scene.program(2, 1);
    scene.signal(2);
    *scene.host.device_pending.lock().unwrap() = 1 << 2;
    scene.heard();

    scene.program(2, 0);

    assert_eq!(scene.heard(), ["forget 2", "wire Msix 2 +", "+2:0x41"]);
}

#[test]
fn exact_unmask_that_the_host_refuses_is_seen_and_what_was_counted_comes_all_the_same() {
    let scene = exact_scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(2, 0);
    scene.program(2, 1);
    scene.host.refuses.lock().unwrap().insert(2);
    scene.heard();

    scene.program(2, 0);
    assert_eq!(scene.heard(), ["wire Msix 2 +", "failure", "+2:0x41"]);
    assert!(scene.interrupts.view().vectors[0].refusal.is_some());

    scene.host.refuses.lock().unwrap().clear();
    scene.program(2, 1);
    scene.program(2, 0);
    assert_eq!(scene.heard(), ["-2", "wire Msix 2 +", "+2:0x41"]);
    assert_eq!(scene.interrupts.view().vectors[0].refusal, None);
}
