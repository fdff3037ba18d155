//! What arrives, and when.

use super::*;

#[test]
fn case_04_first_event_arrives_as_the_message_says() {
    in_both_stages(|scene, vectors| {
        fire(vectors, 0);

        assert_eq!(scene.await_arrival(), [0x41]);
    });
}

#[test]
fn case_05_masked_vector_is_pending_and_silent_and_the_others_are_not() {
    in_both_stages(|scene, vectors| {
        vectors.apply(&[to(1, 0x42), mask(0)]).unwrap();

        (0..3).for_each(|_| fire(vectors, 0));

        assert!(scene.take().is_empty());
        assert!(vectors.pending(0) && !vectors.pending(1));
    });
}

#[test]
fn case_18_vector_whose_irqfd_is_refused_stays_with_the_relay_and_the_others_are_routed() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(2);
    // An eventfd has room for one irqfd.
    let event = vectors.trigger(0).unwrap();
    scene.vm.register_irqfd(&event, 5).unwrap();
    vectors.apply(&[to(0, 0x41), to(1, 0x42)]).unwrap();
    scene.await_route(&vectors, 1);

    assert_eq!(vectors.snapshot(0).unwrap().backend, Backend::Relayed);
    scene.vm.unregister_irqfd(&event, 5).unwrap();
    fire(&mut vectors, 0);
    assert_eq!(scene.await_arrival(), [0x41]);
    fire(&mut vectors, 1);
    assert_eq!(scene.await_arrival(), [0x42]);

    vectors.apply(&[mask(0)]).unwrap();
    vectors.apply(&[to(0, 0x41)]).unwrap();
    assert!(matches!(vectors.snapshot(0).unwrap().backend, Backend::Routed(_)), "tried again");
    fire(&mut vectors, 0);
    assert_eq!(scene.await_arrival(), [0x41]);
}

#[test]
fn case_06_to_08_unmask_delivers_once_and_without_cause_nothing() {
    in_both_stages(|scene, vectors| {
        vectors.apply(&[mask(0)]).unwrap();
        (0..3).for_each(|_| fire(vectors, 0));

        vectors.apply(&[to(0, 0x41)]).unwrap();
        assert_eq!(scene.await_arrival(), [0x41]);
        vectors.apply(&[mask(0)]).unwrap();
        assert!(!vectors.pending(0), "delivered, so not pending");
        vectors.apply(&[to(0, 0x41)]).unwrap();
        vectors.apply(&[mask(0)]).unwrap();
        assert!(scene.take().is_empty(), "no cause, no interrupt");
    });
}

#[test]
fn case_11_new_message_takes_over_and_keeps_its_number() {
    in_both_stages(|scene, vectors| {
        let before = vectors.snapshot(0).unwrap().route.map(|(number, _)| number);
        vectors.apply(&[mask(0)]).unwrap();
        fire(vectors, 0);

        vectors.apply(&[to(0, 0x52)]).unwrap();
        assert_eq!(scene.await_arrival(), [0x52], "what was pending goes to the new target");
        scene.await_route(vectors, 0);
        fire(vectors, 0);

        assert_eq!(scene.await_arrival(), [0x52]);
        let after = vectors.snapshot(0).unwrap().route.map(|(number, _)| number);
        assert!(before.is_none() || after == before);
        assert_eq!(scene.routes.len(), 1);
    });
}

#[test]
fn case_15_reset_forgets_what_was_pending() {
    in_both_stages(|scene, vectors| {
        vectors.apply(&[mask(0)]).unwrap();
        fire(vectors, 0);

        vectors.reset();
        assert!(!vectors.pending(0));
        vectors.apply(&[to(0, 0x41), to(1, 0x43)]).unwrap();
        fire(vectors, 1);

        assert_eq!(scene.await_arrival(), [0x43], "nothing stale with it");
    });
}

#[test]
fn eventfd_of_a_vector_lives_until_the_function_goes() {
    in_both_stages(|scene, vectors| {
        let made = vectors.trigger(0).unwrap();

        vectors.reset();
        assert!(Arc::ptr_eq(&made, &vectors.trigger(0).unwrap()), "a vCPU closes nothing");
        vectors.give_back();
        assert!(Arc::ptr_eq(&made, &vectors.trigger(0).unwrap()));

        vectors.apply(&[to(0, 0x47)]).unwrap();
        fire(vectors, 0);
        assert_eq!(scene.await_arrival(), [0x47], "and it works as before");
    });
}

#[test]
fn case_27_strange_messages_do_no_harm() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(4);
    let strange = [
        Message { address: 0, data: 0 },
        Message { address: 0xfee0_0000 | 77 << 12, data: 0x45 },
        Message { address: !3, data: u32::MAX },
    ];
    for (vector, message) in (1..).zip(strange) {
        vectors.apply(&[Change { vector, route: Route::To(message) }]).unwrap();
        fire(&mut vectors, vector);
    }

    vectors.apply(&[to(0, 0x41)]).unwrap();
    scene.await_route(&vectors, 0);
    (1..4).for_each(|vector| fire(&mut vectors, vector));
    fire(&mut vectors, 0);

    assert_eq!(scene.await_arrival(), [0x41]);
    assert_eq!(vectors.snapshot(1).unwrap().backend, Backend::Relayed, "no route for a write");
}

#[test]
fn delivery_tells_where_a_vector_is_and_how_often_it_was_relayed() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(4);
    assert_eq!(vectors.delivery(0), Delivery::default(), "before its first use");

    // No route for it, so it stays where it is.
    let write = Message { address: 0, data: 0 };
    vectors.apply(&[Change { vector: 2, route: Route::To(write) }]).unwrap();
    fire(&mut vectors, 2);
    vectors.apply(&[to(0, 0x41)]).unwrap();
    scene.await_route(&vectors, 0);

    assert_eq!(scene.relay.promotions(), 1);
    let number = Some(IOAPIC_PINS);
    let routed = Delivery { way: Way::Routed, number, relayed: 0 };
    assert_eq!(vectors.delivery(0), routed);
    assert_eq!(vectors.delivery(2), Delivery { way: Way::Relayed, number: None, relayed: 1 });
    assert_eq!(vectors.relayed().get(), 1, "all vectors together");
    vectors.apply(&[mask(0)]).unwrap();
    assert_eq!(vectors.delivery(0), Delivery { way: Way::Detached, ..routed });
}

#[test]
fn vector_that_was_not_lent_is_refused() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(2);

    assert!(vectors.apply(&[to(2, 0x42)]).is_err());
    assert!(vectors.trigger(2).is_err());
}
