//! A guest starts afresh.

use super::*;

#[test]
fn guest_starts_afresh_whether_it_runs_or_is_paused() {
    for begin in [running, paused] {
        let Some(mut scene) = begin() else { return };
        scene.reboot();
        scene.guest_runs();
        scene.pause();
    }
}

#[test]
fn guest_that_resets_itself_again_and_again_starts_afresh_each_time() {
    let Some(mut scene) = running() else { return };
    for round in 0..50 {
        scene.tell(if round % 2 == 0 { RESET } else { TRIPLE_FAULT });
        scene.until(|vmm| stands(vmm, Standing::Rebooting));
        scene.until(|vmm| stands(vmm, Standing::Running));
        scene.guest_runs();
    }
    assert_eq!(scene.vmm.over(), ControlFlow::Continue(None));
}

#[test]
fn reboot_waits_for_an_access_without_keeping_others_waiting() {
    let Some(mut scene) = running() else { return };
    let inside = scene.stop_inside();

    let answer = scene.ask(Request::Reboot);

    assert!(answer.try_recv().is_err(), "one vCPU is still in the guest");
    assert_eq!(state(&scene.vmm), Some(VmState::Running));
    for request in [Request::Info, Request::Counters, Request::Ping] {
        scene.does(request);
    }
    inside.go_on(NOTHING);
    scene.until(|vmm| stands(vmm, Standing::Running));
    assert_eq!(answer.try_recv().unwrap(), Ok(Response::Done));
    scene.guest_runs();
}

#[test]
fn what_the_guest_asked_for_before_a_reboot_means_nothing_after_it() {
    for what in [POWER_OFF, RESET, TRIPLE_FAULT] {
        let Some(mut scene) = running() else { return };
        scene.tell(what);
        scene.await_event();

        scene.reboot();

        scene.guest_runs();
        scene.does(Request::Ping);
        assert!(stands(&scene.vmm, Standing::Running));
        assert_eq!(scene.vmm.over(), ControlFlow::Continue(None));
    }
}

/// A guest whose kernel is gone when it is needed again.
fn without_kernel() -> Option<Scene> {
    let scene = running()?;
    std::fs::write(scene.kernel.path(), "no kernel").unwrap();
    Some(scene)
}

#[test]
fn guest_that_cannot_be_started_again_is_shut_down_with_its_configuration() {
    let Some(mut scene) = without_kernel() else { return };

    let answer = scene.ask(Request::Reboot);

    scene.until(|vmm| stands(vmm, Standing::Shutdown));
    let fault = answer.try_recv().unwrap().unwrap_err();
    assert_eq!((fault.status, fault.code), (Status::BadRequest, code::VM_BAD_PAYLOAD));
    std::fs::write(scene.kernel.path(), elf(&GUEST)).unwrap();
    scene.boot();
    scene.plug();
    scene.guest_runs();
}

#[test]
fn process_ends_when_a_guest_resets_itself_and_cannot_be_started_again() {
    let Some(mut scene) = without_kernel() else { return };

    scene.tell(RESET);

    let Ending::Failed(reason) = scene.over() else { panic!("nobody asked for it") };
    assert!(reason.contains("is not a kernel"), "{reason}");
}

#[test]
fn reboot_can_be_given_up_whatever_it_waits_for() {
    for end in [Request::Shutdown, Request::Delete] {
        let Some(mut leaving) = running() else { return };
        let inside = leaving.stop_inside();
        let answer = leaving.ask(Request::Reboot);
        inside.go_on(NOTHING);
        leaving.stop(end.clone());
        let fault = answer.try_recv().unwrap().unwrap_err();
        assert_eq!((fault.status, fault.code), (Status::Busy, code::VMM_STOPPING));

        let mut loading = paused().unwrap();
        let answer = loading.ask(Request::Reboot);
        loading.stop(end.clone());
        assert!(answer.try_recv().unwrap().is_err());
        // What is read in the end belongs to nobody.
        loading.vmm.take_finished();
        assert!(!stands(&loading.vmm, Standing::Running));
    }
}
