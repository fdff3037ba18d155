//! What a stage does not allow.

use super::*;

#[test]
fn what_a_stage_does_not_allow_is_refused_with_its_name() {
    let Some(mut scene) = scene() else { return };
    let (not_running, running) = ((400, code::VM_NOT_RUNNING), (400, code::VM_RUNNING));
    for request in [Request::Pause, Request::Resume, Request::Reboot] {
        assert_eq!(scene.refuses(request), not_running);
    }
    scene.boot();
    for request in [Request::Resume, Request::Boot] {
        assert_eq!(scene.refuses(request), running);
    }
    scene.pause();
    for request in [Request::Pause, Request::Boot] {
        assert_eq!(scene.refuses(request), (400, code::VM_PAUSED));
    }
    scene.stop(Request::Shutdown);
    for request in [Request::Pause, Request::Resume, Request::Reboot] {
        assert_eq!(scene.refuses(request), not_running);
    }
    scene.does(Request::Delete);
    for request in [Request::Pause, Request::Resume] {
        assert_eq!(scene.refuses(request), (404, code::VM_NOT_CREATED));
    }
}
