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

        scene.vmm.take_events();

        assert!(matches!(scene.vmm.ending, Some(Ending::Failed(_))));
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
    assert_eq!(scene.vmm.ending, None, "what the guest said at last is nobody's");
}

#[test]
fn process_that_ends_waits_for_the_machine_that_is_taken_apart() {
    let Some(mut scene) = running() else { return };
    let inside = scene.stop_inside();
    let answer = scene.ask(Request::Shutdown);
    inside.go_on(NOTHING);

    scene.vmm.end(Ending::Asked);

    let fault = answer.try_recv().unwrap().unwrap_err();
    assert_eq!((fault.status, fault.code), (Status::Busy, code::VMM_STOPPING));
    let told = scene.vmm.finished.drain();
    assert!(matches!(told[..], [Finished::Stopped]), "it is gone");
}
