//! MSI-X: what the guest writes, and what becomes of it at the host.

use super::*;

#[test]
fn enabling_with_all_masked_wires_no_vector() {
    let scene = scene(true);

    scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);

    assert_eq!(scene.heard(), ["wire Msix 0 -"]);
    assert_eq!(scene.interrupts.msix_control(), 4 | ENABLE | FUNCTION_MASK);
}

#[test]
fn first_unmask_wires_the_vector_and_later_ones_do_not() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.heard();

    scene.program(2, 0);
    assert_eq!(scene.heard(), ["wire Msix 2 +", "+2:0x41"]);
    scene.program(2, 1);
    scene.program(2, 0);
    assert_eq!(scene.heard(), ["-2", "+2:0x41"]);
}

#[test]
fn pending_bit_shows_what_was_signalled_while_masked() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(2, 0);
    scene.program(2, 1);

    assert_eq!(scene.pending(), 0);
    scene.signal(2);

    assert_eq!(scene.pending(), 1 << 2);
    scene.interrupts.write_bar(3, 0x2000, &[0; 8]);
    assert_eq!(scene.pending(), 1 << 2, "read-only");
    scene.program(2, 0);
    assert_eq!(scene.pending(), 0, "on its way, so not pending");
}

#[test]
fn pending_bit_of_a_vector_that_was_never_unmasked_is_the_devices_own() {
    let scene = scene(true);
    *scene.host.device_pending.lock().unwrap() = 0b1000_0101;
    assert_eq!(scene.pending(), 0, "MSI-X is off");

    scene.interrupts.write_msix_control(ENABLE);
    assert_eq!(scene.pending(), 0b101, "of five vectors");
    scene.program(2, 0);
    scene.program(2, 1);
    assert_eq!(scene.pending(), 0b001, "vector 2 signals us now");
}

#[test]
fn odd_reads_of_the_pending_bits_are_ones() {
    let scene = scene(true);

    for (offset, length) in [(0x2000, 2), (0x2004, 8), (0x2002, 4)] {
        let mut data = vec![0; length];
        assert!(scene.interrupts.read_bar(3, offset, &mut data));
        assert_eq!(data, vec![0xff; length]);
    }
    assert!(!scene.interrupts.read_bar(3, 0x2008, &mut [0; 4]), "past the last quadword");
    assert!(!scene.interrupts.read_bar(3, 0x50, &mut [0; 4]), "past the last entry");
    assert!(!scene.interrupts.read_bar(2, 0, &mut [0; 4]), "another BAR");
}

#[test]
fn disable_stops_the_device_before_it_forgets_what_was_pending() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);
    scene.heard();

    scene.interrupts.write_msix_control(0);

    assert_eq!(scene.heard(), ["unwire Msix", "reset"]);
    assert_eq!(scene.pending(), 0);
}

#[test]
fn refused_vector_leaves_the_others_alive_and_is_tried_again() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);
    scene.host.refuses.lock().unwrap().insert(2);
    scene.heard();

    scene.program(2, 0);
    assert_eq!(scene.heard(), ["wire Msix 2 +", "failure"]);

    scene.host.refuses.lock().unwrap().clear();
    scene.program(2, 1);
    scene.program(2, 0);
    assert_eq!(scene.heard(), ["wire Msix 2 +", "+2:0x41"]);
}

#[test]
fn vector_that_the_machine_cannot_deliver_is_seen_and_tried_again_at_its_next_unmask() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);
    scene.program(1, 0);
    scene.program(2, 0);
    scene.undelivered.lock().unwrap().insert(2);
    let refusals = || {
        let views = scene.interrupts.view().vectors;
        views.iter().map(|v| v.refusal.map(|r| r.name().into_owned())).collect::<Vec<_>>()
    };

    scene.interrupts.write_msix_control(ENABLE);
    assert_eq!(refusals(), [None, Some("ENOMEM".to_owned())]);

    scene.undelivered.lock().unwrap().clear();
    scene.program(2, 1);
    scene.heard();
    scene.program(2, 0);
    assert_eq!((scene.heard(), refusals()), (vec!["+2:0x41".to_owned()], vec![None, None]));
}

#[test]
fn host_that_cannot_grow_is_wired_anew_and_loses_no_edge() {
    let scene = scene(false);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(0, 0);
    scene.program(0, 1);
    scene.heard();

    scene.program(3, 0);

    assert_eq!(scene.heard(), ["unwire Msix", "wire Msix 0 +---", "wire Msix 3 +", "+3:0x41"]);
    assert_eq!(scene.pending(), 1, "vector 0 hears of the gap once it is unmasked");
}

#[test]
fn host_that_cannot_grow_and_refuses_keeps_what_it_had() {
    let scene = scene(false);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(0, 0);
    scene.host.refuses.lock().unwrap().insert(3);
    scene.heard();

    scene.program(3, 0);

    let expected = ["unwire Msix", "wire Msix 0 +---", "wire Msix 0 +", "failure"];
    assert_eq!(scene.heard(), expected);
    assert!(scene.interrupts.view().vectors.iter().any(|v| v.vector == 0 && v.wired));
}

#[test]
fn reset_forgets_table_and_control() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);

    scene.interrupts.reset();

    assert_eq!(scene.interrupts.msix_control(), 4);
    let mut entry = [0; 8];
    scene.interrupts.read_bar(3, 24, &mut entry);
    assert_eq!(entry, [0, 0, 0, 0, 1, 0, 0, 0]);
}

#[test]
fn only_wired_vectors_can_be_fired() {
    let scene = scene(true);
    scene.interrupts.write_msix_control(ENABLE);
    scene.program(1, 0);
    scene.heard();

    assert!(matches!(scene.interrupts.fire(0), Err(FireError::Off(0))));
    scene.interrupts.fire(1).unwrap();

    assert_eq!(scene.heard(), ["fire Msix 1"]);
}
