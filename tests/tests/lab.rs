//! The lab itself: if these fail, no other scene means anything.

use std::fs;
use std::path::Path;

use tests::error::{Doing, ensure};
use tests::{Bdf, Host, Kind, Result, in_lab};

#[test]
fn host_has_kvm_and_vfio() {
    in_lab(|_| {
        for file in ["/dev/kvm", "/dev/vfio/vfio"] {
            ensure(Path::new(file).exists(), || format!("the lab has no {file}"))?;
        }
        Ok(())
    });
}

#[test]
fn functions_are_alone_in_their_groups_and_change_hands() {
    in_lab(|host| {
        for kind in [Kind::E1000e, Kind::Igb, Kind::Nvme] {
            changes_hands(host, kind)?;
        }
        Ok(())
    });
}

#[test]
fn virtual_functions_come_and_go() {
    in_lab(|host| {
        for _ in 0..2 {
            changes_hands(host, Kind::IgbVf)?;
        }
        Ok(())
    });
}

#[test]
fn functions_of_many_vectors_are_alone_in_their_groups_and_kept_for_guests() {
    in_lab(|host| {
        for kind in [Kind::NvmeWide, Kind::NvmeWide2, Kind::NvmeNarrow] {
            changes_hands(host, kind)?;
        }
        for kind in [Kind::Virtio64, Kind::Virtio1024, Kind::VirtioLegacy] {
            let bdf = kind.take(host)?.bdf.clone();
            let (members, driver) = (group_size(&bdf)?, host.driver(&bdf));
            ensure(members == 1, || format!("{bdf} shares its group with {} others", members - 1))?;
            ensure(driver.as_deref() == Some("vfio-pci"), || format!("{bdf} went to {driver:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn processors_come_and_go() {
    in_lab(|host| {
        let before = host.online_processors()?;
        drop(host.processors(8)?);
        let after = host.online_processors()?;
        ensure(before == after, || format!("{after} processors stay, of {before}"))
    });
}

fn group_size(bdf: &Bdf) -> Result<usize> {
    let group = fs::read_dir(bdf.file("iommu_group/devices")).doing("list an IOMMU group")?;
    Ok(group.count())
}

fn changes_hands(host: &Host, kind: Kind) -> Result {
    let function = kind.take(host)?;
    let bdf = function.bdf.clone();
    let (members, driver) = (group_size(&bdf)?, host.driver(&bdf));

    drop(function);

    ensure(members == 1, || format!("{bdf} shares its group with {} others", members - 1))?;
    ensure(driver.as_deref() == Some("vfio-pci"), || format!("{bdf} is held by {driver:?}"))?;
    let later = host.driver(&bdf);
    ensure(later.as_deref() != Some("vfio-pci"), || format!("{bdf} is still held by vfio-pci"))
}
