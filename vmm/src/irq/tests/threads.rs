//! Several threads at once.

use super::*;

#[test]
fn case_22_vectors_are_programmed_from_many_threads_at_once() {
    let Some(scene) = scene() else { return };
    let mut lent: Vec<Lent> = (0..4).map(|_| scene.lend(64)).collect();

    thread::scope(|scope| {
        for vectors in &mut lent {
            scope.spawn(move || {
                for round in 0..20 {
                    for vector in 0..64 {
                        vectors.apply(&[to(vector, 0x40 + round)]).unwrap();
                        vectors.apply(&[mask(vector)]).unwrap();
                    }
                }
                (0..64).for_each(|vector| vectors.apply(&[to(vector, 0x70)]).unwrap());
            });
        }
    });

    for vectors in &mut lent {
        scene.await_route(vectors, 63);
        fire(vectors, 63);
        assert_eq!(scene.await_arrival(), [0x70]);
    }
}

/// What a worker does for another device holds the table: a commit, when routes of a
/// device that has gone are released. Here it never ends while vectors are
/// reprogrammed, woken, masked and reset, as vCPUs do in their guest's writes.
#[test]
fn vcpus_reprogram_vectors_while_the_route_table_is_held() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(16);
    (0..4).for_each(|vector| vectors.apply(&[to(vector, 0x41)]).unwrap());
    (0..4).for_each(|vector| scene.await_route(&vectors, vector));
    let (done, is_done) = mpsc::channel();

    thread::scope(|scope| {
        let held = scene.routes.lock();
        let vectors = &mut vectors;
        scope.spawn(move || {
            for round in 0..100_u16 {
                // Routed before, new message; never used before; the same message.
                let change = [to(0, 0x50 + u32::from(round % 2)), to(4 + round % 12, 0x60)];
                vectors.apply(&[mask(0), mask(1), change[0], change[1], to(1, 0x41)]).unwrap();
                fire(vectors, 0);
                vectors.apply(&[mask(0)]).unwrap();
                assert!(vectors.snapshot(1).is_some());
            }
            vectors.reset();
            vectors.apply(&[to(0, 0x71), to(5, 0x72)]).unwrap();
            done.send(()).unwrap();
        });
        let waited = is_done.recv_timeout(Duration::from_secs(20));
        drop(held);
        waited.expect("no vCPU waits for the table");
    });

    scene.await_route(&vectors, 0);
    scene.await_route(&vectors, 5);
    scene.take();
    fire(&mut vectors, 5);
    assert_eq!(scene.await_arrival(), [0x72]);
}

/// A worker that lends vectors to a device and never gets further, as one whose
/// device takes long to open, keeps nobody: not vCPUs, not the relay thread, not
/// the promotion of what they unmask.
#[test]
fn vectors_are_woken_and_routed_while_another_device_is_being_added_and_removed() {
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(4);
    let (go_on, held) = mpsc::channel::<()>();
    let (lent, is_lent) = mpsc::channel();

    thread::scope(|scope| {
        let relay = &scene.relay;
        scope.spawn(move || {
            let mut others = relay.lend(64);
            others.trigger(63).unwrap();
            lent.send(()).unwrap();
            // Until then the add is under way; afterwards it fails, and is undone.
            let _ = held.recv();
        });
        is_lent.recv_timeout(Duration::from_secs(20)).unwrap();

        vectors.apply(&[to(0, 0x41), to(1, 0x42)]).unwrap();
        fire(&mut vectors, 0);
        assert_eq!(scene.await_arrival(), [0x41]);
        scene.await_route(&vectors, 1);
        fire(&mut vectors, 1);
        assert_eq!(scene.await_arrival(), [0x42]);
        drop(go_on);
    });

    assert_eq!(scene.routes.len(), 2, "its vectors have left nothing");
}

/// Case 23. In each round one event races with a mask. It must have been
/// delivered by the time the mask returns, or be pending: never both, never
/// neither, and never delivered later. HOTBAY_RACE_ROUNDS asks for more.
#[test]
fn case_23_event_racing_with_a_mask_is_delivered_or_pending() {
    let asked = std::env::var("HOTBAY_RACE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds: u32 = asked.unwrap_or(20_000);
    let Some(scene) = scene() else { return };
    let mut vectors = scene.lend(1);
    let trigger = vectors.trigger(0).unwrap();
    let (started, fired) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut outcomes = [0_u32; 2];
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                await_round(&started, round);
                trigger.write(1).unwrap();
                fired.store(round, Ordering::Release);
            }
        });
        for round in 1..=rounds {
            // Another message for every other thousand: the relay's hands, then the kernel's.
            let data = 0x41 + round / 1000 % 2;
            vectors.apply(&[to(0, data)]).unwrap();
            started.store(round, Ordering::Release);
            if round % 16 == 0 {
                // On a busy machine the other thread would always come too late.
                await_round(&fired, round);
            }
            (0..round % 64).for_each(|_| std::hint::spin_loop());
            vectors.apply(&[mask(0)]).unwrap();
            let delivered = scene.take();
            await_round(&fired, round);

            let pending = vectors.pending(0);
            assert_eq!(delivered, if pending { vec![] } else { vec![data] }, "round {round}");
            assert!(scene.take().is_empty(), "round {round}: after the mask");
            outcomes[usize::from(pending)] += 1;
            if pending {
                vectors.apply(&[to(0, data)]).unwrap();
                assert_eq!(scene.await_arrival(), [data], "round {round}: at the unmask");
                vectors.apply(&[mask(0)]).unwrap();
                assert!(scene.take().is_empty(), "round {round}: only once");
            }
        }
    });
    println!("{} delivered before the mask, {} pending after it", outcomes[0], outcomes[1]);
    assert!(outcomes.iter().all(|count| *count > 0), "both happen: {outcomes:?}");
}

/// Fails when the other thread has failed, and so will never come.
fn await_round(counter: &AtomicU32, round: u32) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while counter.load(Ordering::Acquire) != round {
        assert!(Instant::now() < deadline, "round {round} comes");
        thread::yield_now();
    }
}
