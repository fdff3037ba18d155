//! Disks come to a VM and go from it, on the real `/dev/kvm`, through the bay that host functions go through.

use std::fs::File;

use api::schema::device::RemoveDevice;
use api::schema::disk::DiskConfig;
use tempfile::NamedTempFile;

use super::*;

fn image() -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(MIB).unwrap();
    image
}

fn disk(image: &NamedTempFile) -> DiskConfig {
    serde_json::from_value(serde_json::json!({ "path": image.path(), "num_queues": 2 })).unwrap()
}

/// Whether no VM has it.
fn is_free(image: &NamedTempFile) -> bool {
    File::open(image.path()).unwrap().try_lock().is_ok()
}

fn removal(id: &str) -> Request {
    let (wait_ms, force) = (Some(20_000), Some(true));
    Request::RemoveDevice(RemoveDevice { id: id.to_owned(), wait_ms, force })
}

impl Scene {
    /// Serves until the request is answered.
    fn answer(&mut self, request: Request) -> Answer {
        let answer = self.ask(request);
        loop {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            self.serve();
        }
    }

    fn is_refused(&mut self, request: Request) -> (u16, &'static str) {
        let fault = self.answer(request).unwrap_err();
        (fault.status.code(), fault.code)
    }

    fn disks(&mut self) -> Vec<DiskConfig> {
        let Ok(Response::Info(info)) = self.answer(Request::Info) else { panic!() };
        info.config.disks.unwrap_or_default()
    }
}

#[test]
fn disk_is_added_locked_and_given_back() {
    let Some(mut scene) = running() else { return };
    let image = image();

    let added = scene.answer(Request::AddDisk(disk(&image)));

    let Ok(Response::Added(info)) = added else { panic!("{added:?}") };
    assert_eq!((info.id.as_str(), info.bdf.as_str()), ("_disk0", "0000:00:01.0"));
    assert!(!is_free(&image));
    assert_eq!(scene.disks()[0].id.as_deref(), Some("_disk0"));
    let twice = scene.is_refused(Request::AddDisk(disk(&image)));
    assert_eq!(twice, (400, code::DEVICE_IN_USE));

    assert_eq!(scene.answer(removal("_disk0")), Ok(Response::Done));
    assert!(is_free(&image));
    assert_eq!(scene.disks(), []);
    assert!(scene.answer(Request::AddDisk(disk(&image))).is_ok());
}

#[test]
fn disk_given_before_boot_is_there_after_a_reboot_and_with_the_next_boot() {
    let Some(mut scene) = scene() else { return };
    let image = image();
    assert_eq!(scene.answer(Request::AddDisk(disk(&image))), Ok(Response::Done));
    assert!(is_free(&image), "nothing runs yet");

    scene.boot();
    scene.plug();
    scene.guest_runs();
    scene.reboot();
    scene.guest_runs();
    assert!(!is_free(&image));
    scene.stop(Request::Shutdown);
    assert!(is_free(&image));

    scene.boot();
    assert_eq!(scene.disks().len(), 1);
}

#[test]
fn image_that_cannot_be_a_disk_is_refused_and_leaves_nothing() {
    let Some(mut scene) = running() else { return };
    let (image, empty) = (image(), NamedTempFile::new().unwrap());
    let nowhere = DiskConfig { path: "/nowhere".into(), ..disk(&image) };
    assert_eq!(scene.is_refused(Request::AddDisk(nowhere)), (404, code::DEVICE_BAD_PATH));
    let bad = (400, code::DEVICE_BAD_PATH);
    assert_eq!(scene.is_refused(Request::AddDisk(disk(&empty))), bad);
    let queues = DiskConfig { num_queues: 65, ..disk(&image) };
    assert_eq!(scene.is_refused(Request::AddDisk(queues)), (400, code::DEVICE_BAD_REQUEST));

    let Ok(Response::Added(info)) = scene.answer(Request::AddDisk(disk(&image))) else { panic!() };
    assert_eq!(info.bdf, "0000:00:01.0", "no slot was lost");
}

#[test]
fn source_of_random_numbers_is_a_device_that_comes_and_goes_too() {
    let Some(mut scene) = scene() else { return };
    let mut config = scene.vmm.vm.as_ref().unwrap().config.clone();
    config.rng = Some(serde_json::from_str(r#"{"src":"/dev/urandom"}"#).unwrap());
    scene.answer(Request::Delete).unwrap();
    scene.answer(Request::Create(Box::new(config))).unwrap();

    scene.boot();

    let Ok(Response::Info(info)) = scene.answer(Request::Info) else { panic!() };
    assert_eq!(info.config.rng.unwrap().id.as_deref(), Some("_rng0"));
    assert_eq!(scene.answer(removal("_rng0")), Ok(Response::Done));
    let Ok(Response::Info(info)) = scene.answer(Request::Info) else { panic!() };
    assert_eq!(info.config.rng, None);
}

#[test]
fn counters_and_interrupts_of_a_disk_are_shown() {
    let Some(mut scene) = running() else { return };
    scene.answer(Request::AddDisk(disk(&image()))).unwrap();

    let Ok(Response::Counters(counters)) = scene.answer(Request::Counters) else { panic!() };
    assert_eq!(counters["_disk0"]["read_ops"], 0);
    let shown = scene.ask(Request::Interrupts(None)).recv_timeout(PATIENCE).unwrap();
    let Ok(Response::Interrupts(interrupts)) = shown else { panic!("{shown:?}") };
    assert_eq!(interrupts["_disk0"].msix.as_ref().map(|msix| msix.table_size), Some(3));
}
