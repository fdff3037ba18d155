use std::os::unix::fs::symlink;

use super::*;

/// A sysfs of our own: functions with a driver and a group.
struct Sysfs(tempfile::TempDir);

impl Sysfs {
    fn new() -> Self {
        let sysfs = Self(tempfile::tempdir().unwrap());
        for folder in ["bus/pci/devices", "bus/usb", "devices", "drivers", "groups"] {
            fs::create_dir_all(sysfs.path(folder)).unwrap();
        }
        sysfs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn add(&self, name: &str, driver: Option<&str>, group: Option<&str>) -> PathBuf {
        let function = self.path("devices").join(name);
        fs::create_dir(&function).unwrap();
        symlink(self.path("bus/pci"), function.join("subsystem")).unwrap();
        if let Some(driver) = driver {
            fs::create_dir_all(self.path("drivers").join(driver)).unwrap();
            symlink(self.path("drivers").join(driver), function.join("driver")).unwrap();
        }
        if let Some(group) = group {
            let group = self.path("groups").join(group);
            fs::create_dir_all(group.join("devices")).unwrap();
            symlink(&function, group.join("devices").join(name)).unwrap();
            symlink(group, function.join("iommu_group")).unwrap();
        }
        let link = self.path("bus/pci/devices").join(name);
        symlink(&function, &link).unwrap();
        link
    }
}

const NAME: &str = "0000:01:00.0";

#[test]
fn bound_function_alone_in_its_group_can_be_had() {
    let sysfs = Sysfs::new();
    let path = sysfs.add(NAME, Some(DRIVER), Some("7"));

    let function = HostFunction::find(&path).unwrap();

    assert_eq!(function.name(), NAME);
    assert_eq!(function.check().unwrap(), 7);
}

#[test]
fn every_spelling_of_a_path_is_the_same_function() {
    let sysfs = Sysfs::new();
    let path = sysfs.add(NAME, Some(DRIVER), Some("7"));
    let slash = PathBuf::from(format!("{}/", path.display()));
    let long = sysfs.path("devices/../devices").join(NAME);

    let function = HostFunction::find(&path).unwrap();

    assert_eq!(HostFunction::find(&slash).unwrap(), function);
    assert_eq!(HostFunction::find(&long).unwrap(), function);
}

#[test]
fn missing_path_and_other_things_are_named() {
    let sysfs = Sysfs::new();
    let missing = HostFunction::find(&sysfs.path("nowhere")).unwrap_err();
    let folder = HostFunction::find(&sysfs.path("drivers")).unwrap_err();

    assert!(missing.to_string().contains("nowhere"), "{missing}");
    assert!(folder.to_string().contains("is no PCI function"), "{folder}");
}

#[test]
fn function_of_a_host_driver_is_refused_with_the_remedy() {
    let sysfs = Sysfs::new();
    let bound = HostFunction::find(&sysfs.add(NAME, Some("e1000e"), Some("7"))).unwrap();
    let free = HostFunction::find(&sysfs.add("0000:02:00.0", None, Some("8"))).unwrap();

    let error = bound.check().unwrap_err().to_string();
    assert!(error.contains("e1000e") && error.contains("scripts/bind-vfio"), "{error}");
    assert!(free.check().unwrap_err().to_string().contains("no driver"));
}

#[test]
fn neighbour_with_a_host_driver_is_named() {
    let sysfs = Sysfs::new();
    let path = sysfs.add(NAME, Some(DRIVER), Some("7"));
    sysfs.add("0000:01:00.1", Some("igb"), Some("7"));
    sysfs.add("0000:01:00.2", Some("pcieport"), Some("7"));

    let error = HostFunction::find(&path).unwrap().check().unwrap_err().to_string();

    assert!(error.contains("0000:01:00.1 (igb)") && !error.contains("00.2"), "{error}");
}

#[test]
fn function_without_a_group_needs_an_iommu() {
    let sysfs = Sysfs::new();
    let path = sysfs.add(NAME, Some(DRIVER), None);

    let error = HostFunction::find(&path).unwrap().check().unwrap_err();

    assert!(matches!(error, HostError::NoIommu(_)), "{error}");
}

#[test]
fn resets_are_listed_in_the_kernel_s_order() {
    let sysfs = Sysfs::new();
    let path = sysfs.add(NAME, Some(DRIVER), Some("7"));
    let function = HostFunction::find(&path).unwrap();
    assert!(function.reset_methods().is_empty(), "a kernel that does not tell");

    fs::write(path.join("reset_method"), "flr bus\n").unwrap();

    assert_eq!(function.reset_methods(), ["flr", "bus"]);
}
