//! A guest stands still and goes on.

use super::*;

#[test]
fn paused_guest_stands_still_and_goes_on() {
    let Some(mut scene) = running() else { return };
    for _ in 0..10 {
        scene.guest_runs();
        scene.pause();
        let (ran, has_run) = mpsc::channel();
        scene.command(move || {
            ran.send(()).unwrap();
            NOTHING
        });
        scene.does(Request::Info);
        assert!(has_run.try_recv().is_err());

        scene.does(Request::Resume);

        has_run.recv_timeout(PATIENCE).unwrap();
        assert_eq!(state(&scene.vmm), Some(VmState::Running));
    }
}

#[test]
fn pause_waits_for_an_access_without_keeping_others_waiting() {
    let Some(mut scene) = running() else { return };
    let inside = scene.stop_inside();

    let answer = scene.ask(Request::Pause);

    assert!(answer.try_recv().is_err(), "one vCPU is still in the guest");
    assert_eq!(state(&scene.vmm), Some(VmState::Running));
    let pausing = (503, code::VM_PAUSING);
    for request in [Request::Pause, Request::Resume, Request::Reboot, Request::Boot] {
        assert_eq!(scene.refuses(request), pausing);
    }
    for request in [Request::Info, Request::Counters, Request::Ping] {
        scene.does(request);
    }
    inside.go_on(NOTHING);
    scene.until(|vmm| state(vmm) == Some(VmState::Paused));
    assert_eq!(answer.try_recv().unwrap(), Ok(Response::Done));
    scene.does(Request::Resume);
    scene.guest_runs();
}

#[test]
fn vm_can_be_shut_down_and_deleted_while_it_is_paused_or_being_paused() {
    for end in [Request::Shutdown, Request::Delete] {
        let Some(mut scene) = paused() else { return };
        scene.stop(end.clone());

        let mut scene = running().unwrap();
        let inside = scene.stop_inside();
        let answer = scene.ask(Request::Pause);
        inside.go_on(NOTHING);
        scene.stop(end.clone());
        let fault = answer.try_recv().unwrap().unwrap_err();
        assert_eq!((fault.status, fault.code), (Status::Busy, code::VMM_STOPPING));
        if end == Request::Shutdown {
            scene.boot();
            scene.plug();
            scene.guest_runs();
            scene.pause();
        }
    }
}

#[test]
fn guest_that_turns_itself_off_in_its_last_moment_ends_at_the_resume() {
    let Some(mut scene) = running() else { return };
    scene.tell(POWER_OFF);
    scene.await_event();
    scene.pause();
    assert_eq!(scene.vmm.over(), ControlFlow::Continue(None));

    scene.does(Request::Resume);

    assert_eq!(scene.over(), Ending::Asked);
}

#[test]
fn guest_that_resets_in_its_last_moment_starts_afresh_at_the_resume() {
    for how in [RESET, TRIPLE_FAULT] {
        let Some(mut scene) = running() else { return };
        scene.tell(how);
        scene.await_event();
        scene.pause();

        scene.does(Request::Resume);

        assert!(stands(&scene.vmm, Standing::Rebooting));
        scene.until(|vmm| stands(vmm, Standing::Running));
        scene.guest_runs();
        assert_eq!(scene.vmm.over(), ControlFlow::Continue(None));
    }
}
