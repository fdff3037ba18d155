//! A guest starts afresh.

use super::*;

#[test]
fn paused_guest_starts_afresh_at_a_reboot() {
    let Some(mut scene) = paused() else { return };

    scene.does(Request::Reboot);

    assert_eq!(state(&scene.vmm), Some(VmState::Running));
    scene.guest_runs();
    scene.pause();
}
