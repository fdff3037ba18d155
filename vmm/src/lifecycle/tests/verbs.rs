//! Each verb in each stage does what the table says: a fresh VM for each cell.

use super::*;
use crate::lifecycle::verbs::tests::requests;

/// A VM that stands so. What is under way stays so: nobody serves its events.
fn standing(standing: Standing) -> Option<Scene> {
    let mut scene = match standing {
        Standing::None | Standing::Created | Standing::Starting => scene()?,
        Standing::Running
        | Standing::Pausing
        | Standing::Rebooting
        | Standing::Stopping
        | Standing::Shutdown => running()?,
        Standing::Paused => paused()?,
    };
    match standing {
        Standing::None => scene.does(Request::Delete),
        Standing::Starting => drop(scene.ask(Request::Boot)),
        Standing::Pausing => drop(scene.ask(Request::Pause)),
        Standing::Rebooting => drop(scene.ask(Request::Reboot)),
        Standing::Stopping => drop(scene.ask(Request::Shutdown)),
        Standing::Shutdown => scene.stop(Request::Shutdown),
        Standing::Created | Standing::Running | Standing::Paused => {}
    }
    assert!(stands(&scene.vmm, standing), "{standing:?}");
    Some(scene)
}

/// The refusal of the stage, if it is one.
fn refusal(answer: &Receiver<Answer>) -> Option<(Status, &'static str)> {
    let fault = answer.try_recv().ok()?.err()?;
    let stages = [
        code::VM_NOT_CREATED,
        code::VM_EXISTS,
        code::VM_NOT_RUNNING,
        code::VM_STARTING,
        code::VM_RUNNING,
        code::VM_PAUSING,
        code::VM_PAUSED,
        code::VM_REBOOTING,
        code::VM_STOPPING,
    ];
    stages.contains(&fault.code).then_some((fault.status, fault.code))
}

fn column_is_true(there: Standing) {
    for request in requests() {
        let Some(mut scene) = standing(there) else { return };
        let verb = Verb::of(&request);

        let answer = scene.ask(request);

        let expected = there.effect(verb).err().map(Refusal::class);
        assert_eq!(refusal(&answer), expected, "{verb:?} of a VM that is {there:?}");
    }
}

macro_rules! columns {
    ($($name:ident: $standing:ident;)+) => {
        $(#[test] fn $name() { column_is_true(Standing::$standing); })+
    };
}

columns! {
    verbs_without_a_vm: None;
    verbs_of_a_vm_that_is_created: Created;
    verbs_of_a_vm_that_is_starting: Starting;
    verbs_of_a_vm_that_is_running: Running;
    verbs_of_a_vm_that_is_pausing: Pausing;
    verbs_of_a_vm_that_is_paused: Paused;
    verbs_of_a_vm_that_is_rebooting: Rebooting;
    verbs_of_a_vm_that_is_stopping: Stopping;
    verbs_of_a_vm_that_is_shut_down: Shutdown;
}
