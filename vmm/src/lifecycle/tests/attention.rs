//! What gets a guest's attention.

use super::*;
use crate::memory::layout;

/// What the guest reads of the button's register.
fn button(scene: &Scene) -> u8 {
    let machine = scene.vmm.vm.as_ref().unwrap().stage.machine().unwrap();
    let mut data = [0xff];
    machine._spaces.ports.read(layout::BUTTON_PORT, &mut data);
    data[0]
}

#[test]
fn pressed_button_is_seen_until_the_guest_has_noticed_or_restarts() {
    let Some(mut scene) = running() else { return };
    assert_eq!(button(&scene), 0);

    scene.does(Request::PowerButton);
    assert_eq!(button(&scene), 1);
    let machine = scene.vmm.vm.as_ref().unwrap().stage.machine().unwrap();
    machine._spaces.ports.write(layout::BUTTON_PORT, &[1]);
    assert_eq!(button(&scene), 0);

    scene.does(Request::PowerButton);
    scene.reboot();
    assert_eq!(button(&scene), 0);
}

#[test]
fn nmi_reaches_the_guest() {
    let Some(mut scene) = running() else { return };

    scene.does(Request::Nmi);

    // It has no interrupt table, so for this guest it is a triple fault.
    scene.until(|vmm| stands(vmm, Standing::Rebooting));
    scene.until(|vmm| stands(vmm, Standing::Running));
}
