//! The end of a machine, and of the process.

use super::*;

#[test]
fn vcpu_that_cannot_go_on_ends_the_process_whatever_the_stage() {
    for pausing in [false, true] {
        let Some(mut scene) = running() else { return };
        let inside = scene.stop_inside();
        let answer = pausing.then(|| scene.ask(Request::Pause));
        scene.vmm.poster.post(Event::Fault { vcpu: 1, reason: "made up".to_owned() });
        inside.go_on(NOTHING);

        let ending = scene.over();

        assert!(matches!(ending, Ending::Failed(_)), "{ending:?}");
        assert!(answer.is_none_or(|answer| answer.try_recv().unwrap().is_err()));
    }
}

#[test]
fn others_are_served_while_a_machine_is_taken_apart() {
    let Some(mut scene) = running() else { return };
    let inside = scene.stop_inside();

    let answer = scene.ask(Request::Shutdown);

    // Its vCPU is still in an access, so it cannot be gone.
    assert!(answer.try_recv().is_err());
    for request in [Request::Info, Request::Ping, Request::Counters] {
        scene.does(request);
    }
    for request in [Request::Boot, Request::Reboot, Request::Pause, Request::Shutdown] {
        assert_eq!(scene.refuses(request), (503, code::VM_STOPPING));
    }
    let deleted = scene.ask(Request::Delete);
    let another = Request::Create(Box::default());
    assert_eq!(scene.refuses(another), (503, code::VM_STOPPING));
    inside.go_on(POWER_OFF);
    scene.until(|vmm| vmm.vm.is_none());
    assert_eq!(answer.try_recv().unwrap(), Ok(Response::Done));
    assert_eq!(deleted.try_recv().unwrap(), Ok(Response::Done));
    assert_eq!(
        scene.vmm.over(),
        ControlFlow::Continue(None),
        "what the guest said at last is nobody's"
    );
}

#[test]
fn process_that_ends_serves_others_until_its_machine_is_gone() {
    let Some(mut scene) = running() else { return };
    let inside = scene.stop_inside();
    let before = scene.ask(Request::Shutdown);

    let answer = scene.ask(Request::VmmShutdown);

    assert!(matches!(scene.vmm.over(), ControlFlow::Continue(Some(_))), "a vCPU is in an access");
    for request in [Request::Info, Request::Ping, Request::Counters] {
        scene.does(request);
    }
    let another = Request::Create(Box::default());
    assert_eq!(scene.refuses(another), (503, code::VM_STOPPING));
    inside.go_on(NOTHING);
    assert_eq!(scene.over(), Ending::Asked);
    for answer in [before, answer] {
        assert_eq!(answer.try_recv().unwrap(), Ok(Response::Done));
    }
}

#[test]
fn process_without_a_machine_ends_at_once() {
    let Some(mut scene) = scene() else { return };

    scene.does(Request::VmmShutdown);

    // Both may have come at once.
    let another = Request::Create(Box::default());
    assert_eq!(scene.refuses(another), (503, code::VM_STOPPING));
    assert_eq!(scene.vmm.over(), ControlFlow::Break(Ending::Asked));
}

#[test]
fn second_signal_does_not_wait_for_the_machine() {
    let Some(mut scene) = running() else { return };
    let inside = scene.stop_inside();
    scene.vmm.signalled();
    assert!(matches!(scene.vmm.over(), ControlFlow::Continue(Some(_))));

    scene.vmm.signalled();

    let ControlFlow::Break(Ending::Failed(reason)) = scene.vmm.over() else { panic!("it waits") };
    assert!(reason.contains("not taken apart in time"), "{reason}");
    inside.go_on(NOTHING);
}
