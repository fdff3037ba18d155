//! What the kernel's route table costs, and that nothing stays in it.

use super::*;

#[test]
fn case_26_vectors_woken_one_by_one_share_a_commit_and_toggling_costs_none() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(64);

    (0..64).for_each(|vector| vectors.apply(&[to(vector, 0x42)]).unwrap());
    scene.await_route(&vectors, 0);
    scene.await_route(&vectors, 63);
    assert!(scene.routes.commits() <= 2, "{} commits", scene.routes.commits());

    let before = scene.routes.commits();
    for _ in 0..10 {
        vectors.apply(&[mask(1)]).unwrap();
        vectors.apply(&[to(1, 0x42)]).unwrap();
    }
    assert_eq!(scene.routes.commits(), before);
    assert!(matches!(vectors.snapshot(1).unwrap().backend, Backend::Routed(_)));
}

/// A guest that always wakes one more must not keep a busy vector from its route.
#[test]
fn busy_vector_is_routed_after_a_thousand_messages_while_others_still_come() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(2048);
    vectors.apply(&[to(0, 0x41)]).unwrap();
    let mut fired = 0;
    while vectors.delivery(0).way == Way::Relayed {
        if fired % 10 == 0 {
            vectors.apply(&[to(1 + fired / 10, 0x42)]).unwrap();
        }
        fire(&mut vectors, 0);
        assert_eq!(scene.await_arrival(), [0x41]);
        fired += 1;
    }

    assert!(vectors.delivery(0).relayed <= 1000, "{:?}", vectors.delivery(0));
    assert_eq!(scene.relay.promotions(), 1);
}

#[test]
fn enabling_again_with_the_same_messages_commits_nothing() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(4);
    vectors.apply(&[to(0, 0x42), to(1, 0x43)]).unwrap();
    scene.await_route(&vectors, 1);
    let before = scene.routes.commits();

    vectors.reset();
    vectors.apply(&[to(0, 0x42), to(1, 0x43)]).unwrap();
    fire(&mut vectors, 1);

    assert_eq!(scene.await_arrival(), [0x43]);
    assert_eq!(scene.routes.commits(), before);
}

#[test]
fn case_20_numbers_given_back_at_a_reset_are_free_and_the_same_messages_commit_nothing() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(4);
    vectors.apply(&[to(0, 0x42), to(1, 0x43)]).unwrap();
    scene.await_route(&vectors, 1);
    let before = scene.routes.commits();

    vectors.give_back();
    assert_eq!(scene.routes.len(), 0);
    assert_eq!(vectors.snapshot(1).unwrap().route, None);
    assert_eq!(scene.routes.commits(), before, "no commit on the way out");

    for (vector, data) in [(0, 0x42), (1, 0x43)] {
        vectors.apply(&[to(vector, data)]).unwrap();
        scene.await_route(&vectors, vector);
    }
    fire(&mut vectors, 1);
    assert_eq!(scene.await_arrival(), [0x43]);
    assert_eq!((scene.routes.len(), scene.routes.commits()), (2, before));
}

#[test]
fn case_20_number_given_back_goes_to_others_with_their_message() {
    let Some(scene) = scene() else { return };
    let (mut first, mut second) = (scene.lend(1), scene.lend(1));
    first.apply(&[to(0, 0x42)]).unwrap();
    scene.await_route(&first, 0);
    let number = first.snapshot(0).unwrap().route.unwrap().0;

    first.give_back();
    second.apply(&[to(0, 0x44)]).unwrap();
    scene.await_route(&second, 0);
    first.apply(&[to(0, 0x42)]).unwrap();
    scene.await_route(&first, 0);

    assert_eq!(second.snapshot(0).unwrap().route.unwrap().0, number);
    assert_ne!(first.snapshot(0).unwrap().route.unwrap().0, number);
    fire(&mut first, 0);
    assert_eq!(scene.await_arrival(), [0x42]);
    fire(&mut second, 0);
    assert_eq!(scene.await_arrival(), [0x44]);
}

#[test]
fn vectors_given_back_while_they_wait_for_promotion_leave_no_route() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(8);
    for round in 0..50 {
        (0..8).for_each(|vector| vectors.apply(&[to(vector, 0x42 + round % 2)]).unwrap());
        if round % 3 == 0 {
            scene.await_route(&vectors, 7);
        }
        vectors.give_back();
    }
    vectors.apply(&[to(0, 0x45)]).unwrap();
    scene.await_route(&vectors, 0);

    assert_eq!(scene.routes.len(), 1);
    fire(&mut vectors, 0);
    assert_eq!(scene.await_arrival(), [0x45]);
}

#[test]
fn dropped_vectors_give_their_routes_back() {
    let Some(scene) = scene() else { return };
    let mut first = scene.lend(8);
    let mut second = scene.lend(8);
    first.apply(&[to(0, 0x42), to(7, 0x43)]).unwrap();
    second.apply(&[to(0, 0x44)]).unwrap();
    scene.await_route(&first, 7);
    scene.await_route(&second, 0);

    drop(first);

    assert_eq!(scene.routes.len(), 1);
    fire(&mut second, 0);
    assert_eq!(scene.await_arrival(), [0x44], "the others are undisturbed");
}

#[test]
fn vectors_dropped_while_they_wait_for_promotion_leave_no_route() {
    let Some(scene) = scene() else { return };
    for _ in 0..50 {
        let mut vectors = scene.lend(8);
        (0..8).for_each(|vector| vectors.apply(&[to(vector, 0x42)]).unwrap());
        drop(vectors);
    }

    let mut last = scene.lend(1);
    last.apply(&[to(0, 0x43)]).unwrap();
    scene.await_route(&last, 0);

    assert_eq!(scene.routes.len(), 1);
}

#[test]
fn case_17_vectors_past_the_route_limit_still_deliver() {
    let Some(scene) = scene() else { return };
    let mut first = scene.lend(2048);
    let mut second = scene.lend(2048);
    (0..2048).for_each(|vector| first.apply(&[to(vector, 0x60)]).unwrap());
    (0..2048).for_each(|vector| second.apply(&[to(vector, 0x61)]).unwrap());
    scene.await_route(&first, 2047);
    scene.await_route(&second, 0);

    let last = second.snapshot(2047).unwrap();
    assert_eq!(last.backend, Backend::Relayed, "no route is left for it");
    fire(&mut second, 2047);
    assert_eq!(scene.await_arrival(), [0x61]);
    fire(&mut first, 2047);
    assert_eq!(scene.await_arrival(), [0x60]);

    drop(first);
    second.apply(&[mask(2047)]).unwrap();
    second.apply(&[to(2047, 0x61)]).unwrap();
    scene.await_route(&second, 2047);
}

#[test]
fn pins_still_work_after_a_commit() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(1);
    vectors.apply(&[to(0, 0x42)]).unwrap();
    scene.await_route(&vectors, 0);

    let mut ioapic = kvm_bindings::kvm_irqchip {
        chip_id: kvm_bindings::KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    scene.vm.get_irqchip(&mut ioapic).unwrap();
    // Redirection entry of pin 5: vector 0x55, edge, physical destination 0.
    // SAFETY: the kernel filled the union in as an IOAPIC, and this is its field.
    #[expect(unsafe_code, reason = "the bindings have a union")]
    let chip = unsafe { &mut ioapic.chip.ioapic };
    chip.redirtbl[5].bits = 0x55;
    scene.vm.set_irqchip(&ioapic).unwrap();
    scene.vm.set_irq_line(5, true).unwrap();

    assert_eq!(scene.await_arrival(), [0x55]);
}
