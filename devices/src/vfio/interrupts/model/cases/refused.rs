//! Case 18: what the host refuses, and hosts that cannot add vectors.

use super::super::board::Limits;
use super::Scene;
use crate::pci::msix::{ENABLE, SIZE_MASK};
use crate::vfio::interrupts::Mode;
use crate::vfio::sys::device::Index;

impl Scene {
    /// What the host refuses of each vector.
    fn refusals(&self) -> Vec<Option<String>> {
        let count = self.interrupts.msix_control() & SIZE_MASK;
        let mut refusals = vec![None; usize::from(count) + 1];
        for view in self.interrupts.view().vectors {
            refusals[usize::from(view.vector)] = view.refusal.map(|r| r.name().into_owned());
        }
        refusals
    }
}

#[test]
fn case_18_refusal_at_any_vector_leaves_the_others_and_a_retry_works() {
    for k in 0..5 {
        // Vector 0 is allocated when MSI-X comes on.
        let vectors = k.max(1);
        refuse_from(k, "EMFILE", Limits { descriptors: k.into(), ..Limits::NONE });
        refuse_from(vectors, "ENOSPC", Limits { vectors: vectors.into(), ..Limits::NONE });
    }
}

/// A guest unmasks five vectors, of which `limits` leave `live`.
fn refuse_from(live: u16, name: &str, limits: Limits) {
    for grows in [true, false] {
        let about = format!("{name} at {live}, host adds vectors: {grows}");
        let scene = Scene::on_host(5, grows);
        scene.interrupts.write_msix_control(ENABLE);
        scene.handle.limit(limits);
        (0..5).for_each(|vector| scene.program(vector));

        (0..5).for_each(|vector| scene.mask(vector, false));
        let wanted: Vec<_> = (0..5).map(|v| (v >= live).then(|| name.to_owned())).collect();
        assert_eq!(scene.refusals(), wanted, "{about}");
        assert_eq!(scene.interrupts.view().refusal, None, "{about}");
        scene.heard();
        scene.fire(&[0, 1, 2, 3, 4]);
        assert_eq!(scene.heard(), (0..live).collect::<Vec<_>>(), "{about}");

        scene.handle.limit(Limits::NONE);
        (live..5).for_each(|vector| scene.mask(vector, true));
        assert_eq!(scene.refusals(), wanted, "not before it is tried: {about}");
        (live..5).for_each(|vector| scene.mask(vector, false));
        assert_eq!(scene.refusals(), vec![None; 5], "{about}");
        let kept = scene.heard();
        assert!((live..5).all(|v| kept.contains(&v)), "the device kept {kept:?}: {about}");
        scene.fire(&[0, 1, 2, 3, 4]);
        assert_eq!(scene.heard(), [0, 1, 2, 3, 4], "{about}");
    }
}

#[test]
fn case_18_host_that_takes_vectors_back_while_it_makes_room_is_seen_and_recovered_from() {
    let scene = Scene::on_host(5, false);
    scene.interrupts.write_msix_control(ENABLE);
    (0..5).for_each(|vector| scene.program(vector));
    (0..2).for_each(|vector| scene.mask(vector, false));
    scene.handle.limit(Limits { vectors: 1, ..Limits::NONE });
    scene.heard();

    scene.mask(2, false);
    assert!(scene.handle.is_active(None));
    let view = scene.interrupts.view();
    assert_eq!(
        (view.host_mode, view.refusal.map(|r| r.name().into_owned())),
        (Mode::None, Some("ENOSPC".to_owned()))
    );

    scene.handle.limit(Limits::NONE);
    scene.mask(3, false);
    assert_eq!(scene.handle.wired(), [true, true, true, true, false]);
    assert_eq!((scene.heard(), scene.refusals()), (vec![0, 1], vec![None; 5]), "events of before");
}

#[test]
fn case_18_one_vector_refused_for_a_while_is_the_only_one() {
    for (k, grows) in (1..5).flat_map(|k| [(k, true), (k, false)]) {
        let scene = Scene::on_host(5, grows);
        scene.interrupts.write_msix_control(ENABLE);
        (0..5).for_each(|vector| scene.program(vector));

        for vector in 0..5 {
            let limits = Limits { descriptors: k.into(), ..Limits::NONE };
            scene.handle.limit(if vector == k { limits } else { Limits::NONE });
            scene.mask(vector, false);
        }

        let wanted: Vec<_> = (0..5).map(|v| (v == k).then(|| "EMFILE".to_owned())).collect();
        assert_eq!(scene.refusals(), wanted);
        scene.heard();
        scene.fire(&[0, 1, 2, 3, 4]);
        assert_eq!(scene.heard(), (0..5).filter(|v| *v != k).collect::<Vec<_>>());
        scene.interrupts.write_msix_control(0);
        assert_eq!(scene.refusals(), vec![None; 5], "disabled");
    }
}

#[test]
fn case_18_refused_kinds_are_tried_again_by_the_register_that_enables_them() {
    let scene = Scene::new(5);
    let shown = || scene.interrupts.view().refusal.map(|refusal| refusal.name().into_owned());
    let nothing = Limits { vectors: 0, descriptors: 0 };
    scene.handle.limit(nothing);

    scene.interrupts.allow_line(true);
    assert_eq!(shown().as_deref(), Some("EMFILE"), "INTx");
    scene.interrupts.write_msi(2, &[1]);
    assert_eq!(shown().as_deref(), Some("EMFILE"), "MSI");
    scene.interrupts.write_msix_control(ENABLE);
    assert_eq!(shown().as_deref(), Some("ENOSPC"), "MSI-X");
    assert!(scene.handle.is_active(None));

    scene.handle.limit(Limits::NONE);
    scene.interrupts.write_msi(4, &[0; 4]);
    scene.interrupts.allow_line(true);
    assert!(scene.handle.is_active(None), "registers of other kinds");
    scene.interrupts.write_msix_control(ENABLE);
    assert!(scene.handle.is_active(Some(Index::Msix)) && shown().is_none());
    scene.handle.limit(nothing);
    scene.interrupts.write_msix_control(0);
    assert!(scene.handle.is_active(None) && shown().is_some());
    scene.handle.limit(Limits::NONE);
    scene.interrupts.write_msi(2, &[1]);
    assert!(scene.handle.is_active(Some(Index::Msi)) && shown().is_none());
    scene.handle.limit(nothing);
    scene.interrupts.write_msi(2, &[0]);
    assert!(scene.handle.is_active(None) && shown().is_some());
    scene.handle.limit(Limits::NONE);
    scene.interrupts.allow_line(true);
    assert!(scene.handle.is_active(Some(Index::Intx)) && shown().is_none());
}

#[test]
fn host_that_cannot_add_vectors_allocates_them_in_powers_of_two() {
    let scene = Scene::on_host(64, false);
    scene.interrupts.write_msix_control(ENABLE);
    (0..64).for_each(|vector| scene.program(vector));

    (0..64).for_each(|vector| scene.mask(vector, false));

    assert_eq!(scene.handle.enablings(), 1 + 6, "for 1, 2, 4, 8, 16, 32 and 64 vectors");
    scene.heard();
    scene.fire(&[0, 63]);
    assert_eq!(scene.heard(), [0, 63]);
}
