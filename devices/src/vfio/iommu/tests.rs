//! Attaching as far as it comes without a group: whose turn it is, and who gives up.

use std::thread;

use super::*;

struct Nothing;

impl Warmth for Nothing {
    fn step_back(&self) {}

    fn warm(&self, _range: &RamRange, _give_up: &dyn Fn() -> bool) -> io::Result<()> {
        Ok(())
    }
}

impl GroupWatch for Nothing {
    fn attached(&self, _group: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn detaching(&self, _group: BorrowedFd<'_>) {}
}

/// No host has so many groups.
const NO_GROUP: u32 = u32::MAX;

fn iommu() -> Iommu {
    Iommu::new(Vec::new(), Arc::new(Nothing), Arc::new(Nothing))
}

/// Somebody attaches a group for as long as `meanwhile` takes; another waits for
/// its turn. What becomes of that.
fn waiting(iommu: &Iommu, meanwhile: impl FnOnce(&Progress)) -> AttachError {
    let progress = Progress::default();
    thread::scope(|scope| {
        let turn = iommu.turn(&Progress::default()).unwrap();
        let body = || iommu.attach(NO_GROUP, &progress, None).err().unwrap();
        let other = thread::Builder::new().name("other".to_owned()).spawn_scoped(scope, body);
        meanwhile(&progress);
        let error = other.unwrap().join().unwrap();
        drop(turn);
        error
    })
}

#[test]
fn device_that_waits_for_its_turn_can_be_cancelled() {
    let iommu = iommu();

    let error = waiting(&iommu, |progress| iommu.cancel(progress));

    assert!(matches!(error, AttachError::Cancelled));
}

#[test]
fn machine_that_stops_waits_for_nobody_s_turn() {
    let iommu = iommu();

    let error = waiting(&iommu, |_| iommu.stop());

    assert!(matches!(error, AttachError::Stopping));
}

#[test]
fn turn_comes_again_after_a_failure() {
    let iommu = iommu();

    for _ in 0..2 {
        let error = iommu.attach(NO_GROUP, &Progress::default(), None).err().unwrap();
        assert!(matches!(error, AttachError::Open(NO_GROUP, _)));
    }
}

#[test]
fn nothing_is_given_back_while_a_group_is_being_attached() {
    let iommu = iommu();
    assert_eq!(iommu.while_unmapped(|| 1), Some(1));

    let turn = iommu.turn(&Progress::default()).unwrap();

    assert_eq!(iommu.while_unmapped(|| 2), None);
    drop(turn);
    assert_eq!(iommu.while_unmapped(|| 3), Some(3));
}
