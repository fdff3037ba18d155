//! RAM that becomes warm while the guest runs, or before.

use api::schema::prefault::Prefault;

use super::*;
use crate::monitor::testing::{Heard, monitor};

/// A guest of 64 MiB that has just been started, and what the monitor heard.
fn booted(prefault: Prefault) -> Option<(Scene, Heard)> {
    let mut scene = scene()?;
    let mut config = scene.vmm.vm.as_ref().unwrap().config.clone();
    config.memory.prefault = prefault;
    scene.does(Request::Delete);
    scene.does(Request::Create(Box::new(config)));
    let (monitor, heard) = monitor(64);
    scene.vmm.monitor = monitor;
    scene.boot();
    Some((scene, heard))
}

fn warm(scene: &Scene) -> u64 {
    scene.vmm.vm.as_ref().unwrap().stage.machine().unwrap().warming.level().warm
}

#[test]
fn ram_becomes_warm_behind_a_running_guest_s_back() {
    let Some((mut scene, heard)) = booted(Prefault::Background) else { return };
    let mut names = heard.names();
    assert_eq!(names[..3], ["booting", "booted", "memory-warming"]);
    scene.plug();
    while !names.contains(&"memory-warmed".to_owned()) {
        scene.await_event();
        scene.vmm.take_finished();
        names.extend(heard.names());
    }

    assert_eq!(warm(&scene), 64 * MIB);
    scene.guest_runs();
}

#[test]
fn ram_is_warm_before_the_guest_starts_or_is_left_alone() {
    let Some((scene, heard)) = booted(Prefault::On) else { return };
    assert_eq!(warm(&scene), 64 * MIB);
    assert_eq!(heard.names(), ["booting", "booted"]);

    let (scene, _) = booted(Prefault::Off).unwrap();
    assert_eq!(warm(&scene), 0);
}

#[test]
fn warming_ends_with_the_machine_and_is_not_mistaken_for_the_next_one_s() {
    let Some((mut scene, heard)) = booted(Prefault::Background) else { return };
    scene.stop(Request::Shutdown);
    scene.boot();
    assert!(!heard.names().contains(&"memory-warmed".to_owned()));

    scene.vmm.finished_poster.post(Finished::Warmed(1, Ok(())));
    scene.vmm.take_finished();

    let names = heard.names();
    let told = names.iter().filter(|name| *name == "memory-warmed").count();
    assert!(told <= 1, "this boot's own at most: {names:?}");
}
