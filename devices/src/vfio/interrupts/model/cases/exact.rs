//! Cases 5 to 9 with exact pending bits: a masked vector is masked at the device too.

use super::super::Setup;
use super::Scene;
use crate::pci::msix::{ENABLE, FUNCTION_MASK};

impl Scene {
    /// The same, each with exact pending bits, on hosts of both kinds.
    fn exact(vectors: u16) -> [Self; 2] {
        [true, false].map(|grows| {
            let setup = Setup { vectors, grows, has_line: true, exact: true };
            let scene = Self::with(setup).wake(vectors);
            scene.handle.take_sent();
            scene
        })
    }
}

#[test]
fn cases_5_to_8_with_exact_pending_bits() {
    for scene in Scene::exact(5) {
        let enablings = scene.handle.enablings();
        scene.mask(3, true);
        assert_eq!(scene.handle.wired(), [true, true, true, false, true]);
        scene.fire(&[3, 3, 3, 1]);
        assert_eq!((scene.heard(), scene.pending()), (vec![1], 1 << 3));
        scene.mask(3, false);
        assert_eq!((scene.heard(), scene.pending()), (vec![3], 0));

        scene.mask(3, true);
        scene.mask(3, false);
        assert_eq!(scene.heard(), [] as [u16; 0], "no cause");
        assert_eq!(scene.handle.enablings(), enablings, "no vector is disturbed by it");
    }
}

#[test]
fn exact_pending_bit_goes_with_its_cause() {
    for scene in Scene::exact(5) {
        scene.mask(3, true);
        scene.fire(&[3]);
        assert_eq!(scene.pending(), 1 << 3);

        scene.handle.retract(3);
        assert_eq!(scene.pending(), 0);
        scene.mask(3, false);
        assert_eq!(scene.heard(), [] as [u16; 0]);
    }
}

#[test]
fn exact_event_on_its_way_and_one_that_the_device_keeps_are_one_message() {
    for scene in Scene::exact(5) {
        for kept in [false, true] {
            scene.handle.fire_while_masking(3);
            scene.mask(3, true);
            if kept {
                scene.fire(&[3]);
            }
            assert_eq!((scene.heard(), scene.pending()), (vec![], 1 << 3), "kept: {kept}");

            scene.mask(3, false);
            assert_eq!((scene.heard(), scene.pending()), (vec![3], 0), "kept: {kept}");
        }
    }
}

#[test]
fn exact_function_mask_takes_all_wires_off_and_case_9_holds() {
    for scene in Scene::exact(5) {
        scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);
        assert_eq!(scene.handle.wired(), [false; 5]);

        scene.fire(&[4, 2, 4]);
        assert_eq!((scene.heard(), scene.pending()), (vec![], 1 << 2 | 1 << 4));
        scene.interrupts.write_msix_control(ENABLE);
        assert_eq!((scene.heard(), scene.pending()), (vec![2, 4], 0));
        assert_eq!(scene.handle.wired(), [true; 5]);
    }
}
