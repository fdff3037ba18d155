//! `vm.check-device` refuses what an add would, and leaves nothing.

use api::schema::device::AddDevice;

use super::*;

fn nowhere() -> AddDevice {
    let body = r#"{"path": "/sys/bus/pci/devices/nowhere", "pci_device_id": 3}"#;
    serde_json::from_str(body).unwrap()
}

impl Scene {
    /// What a request is refused with, by whichever thread.
    fn comes_to(&mut self, request: Request) -> (u16, &'static str) {
        let fault = self.ask(request).recv_timeout(PATIENCE).unwrap().unwrap_err();
        (fault.status.code(), fault.code)
    }
}

#[test]
fn check_of_a_device_is_refused_as_its_add_is_and_takes_no_slot() {
    let Some(mut scene) = running() else { return };
    let no_such_path = (404, code::DEVICE_BAD_PATH);
    for _ in 0..40 {
        assert_eq!(scene.comes_to(Request::CheckDevice(nowhere())), no_such_path);
    }
    assert_eq!(scene.comes_to(Request::AddDevice(nowhere())), no_such_path);

    let zero = AddDevice { pci_device_id: Some(0), ..nowhere() };
    let refused = scene.comes_to(Request::CheckDevice(zero));
    assert_eq!(refused, (400, code::DEVICE_BAD_REQUEST));
}

#[test]
fn device_is_checked_only_for_a_guest_that_runs() {
    let Some(mut scene) = scene() else { return };

    let refused = scene.comes_to(Request::CheckDevice(nowhere()));

    assert_eq!(refused, (400, code::VM_NOT_RUNNING));
}
