//! Disks of ours: at boot and plugged in later, read and written by a guest that verifies, unplugged and plugged again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use api::schema::interrupts::InterruptMode;
use serde_json::json;
use tempfile::TempDir;
use tests::error::{Doing, ensure};
use tests::{Options, Result, Vm, in_lab};

const MIB: u64 = 1 << 20;

#[test]
fn disk_at_boot_is_copied_to_one_added_later_which_is_unplugged_and_plugged_again() {
    in_lab(|host| {
        let images = Images::new()?;
        let (system, data) = (images.random("system", 8)?, images.empty("data", 8)?);
        let sum = sum(&system)?;
        let mut vm =
            with_disk(&format!("path={},id=system,readonly=on", system.display()), "boot=1")?;
        reads(&mut vm, "vda", &sum)?;
        let before = vm.settled_descriptors(host)?;

        for round in 0..2 {
            add(&vm, &data, "data")?;
            vm.guest.wait_for("the disk", "test -b /dev/vdb")?;
            if round == 0 {
                vm.guest.run("dd if=/dev/vda of=/dev/vdb bs=64k conv=fsync 2>/dev/null")?;
            }
            reads(&mut vm, "vdb", &sum)?;
            let serial = vm.guest.run("cat /sys/block/vdb/serial")?;
            ensure(serial == "data", || format!("its serial number is {serial}"))?;
            vm.mode_becomes("data", InterruptMode::Msix)?;
            vm.remove("data")?;
            vm.guest.run("test ! -b /dev/vdb")?;
        }

        ensure(self::sum(&data)? == sum, || "the image does not hold what was written".into())?;
        let counters = vm.counters()?["system"].take();
        let (read, trapped) = (&counters["read_bytes"], &counters["trapped_notifications"]);
        ensure(read.as_u64() >= Some(8 * MIB) && *trapped == 0, || counters.to_string())?;
        vm.descriptors_return_to(host, before)
    });
}

#[test]
fn disk_with_two_queues_is_written_while_it_is_read_and_is_there_after_a_reboot() {
    in_lab(|_| {
        let images = Images::new()?;
        let image = images.random("two", 8)?;
        let option = format!("path={},id=two,num_queues=2,direct=off", image.display());
        let mut vm = with_disk(&option, "boot=2")?;
        let half = "dd if=/dev/urandom of=/tmp/half bs=64k count=64 2>/dev/null";
        vm.guest.run(half)?;
        vm.guest.run(
            "dd if=/dev/vda of=/dev/null bs=4k & dd if=/tmp/half of=/dev/vda bs=4k conv=fsync 2>/dev/null; wait",
        )?;
        let sum = sum(&image)?;
        reads(&mut vm, "vda", &sum)?;

        vm.guest.type_in("reboot -f\n")?;
        vm.guest.ready()?;

        reads(&mut vm, "vda", &sum)
    });
}

#[test]
fn image_that_becomes_shorter_is_an_error_to_the_guest_and_to_nobody_else() {
    in_lab(|_| {
        let images = Images::new()?;
        let image = images.random("short", 8)?;
        let mut vm = with_disk(&format!("path={},id=short", image.display()), "boot=1")?;
        File::options().write(true).open(&image).and_then(|file| file.set_len(MIB)).doing("cut")?;

        let end = vm.guest.try_run("dd if=/dev/vda of=/dev/null bs=4k skip=1024 count=1 2>&1")?;

        ensure(end.status != 0, || format!("it was read: {}", end.text))?;
        vm.guest.run("dd if=/dev/vda of=/dev/null bs=4k count=1 2>/dev/null")?;
        let counters = vm.counters()?;
        let errors = counters["short"]["io_errors"].as_u64();
        ensure(errors.is_some_and(|errors| errors > 0), || counters.to_string())?;
        vm.remove("short")
    });
}

#[test]
fn file_system_that_is_full_is_an_error_to_the_guest_which_goes_on_when_there_is_room() {
    in_lab(|_| {
        let images = Images::new()?;
        let small = images.small_file_system()?;
        let (image, filler) = (small.join("sparse"), small.join("filler"));
        File::create(&image).and_then(|file| file.set_len(8 * MIB)).doing("make an image")?;
        fs::write(&filler, vec![1; 3 << 20]).doing("fill the file system")?;
        let mut vm = with_disk(&format!("path={},id=sparse", image.display()), "boot=1")?;

        let write = "dd if=/dev/urandom of=/dev/vda bs=64k count=64 conv=fsync 2>&1";
        let full = vm.guest.try_run(write)?;

        ensure(full.status != 0, || format!("it was written: {}", full.text))?;
        let counters = vm.counters()?;
        let errors = counters["sparse"]["io_errors"].as_u64();
        ensure(errors.is_some_and(|errors| errors > 0), || counters.to_string())?;
        fs::remove_file(&filler).doing("make room")?;
        vm.guest.run("dd if=/dev/urandom of=/dev/vda bs=64k count=32 conv=fsync 2>/dev/null")?;
        vm.guest.run("sync").map(drop)
    });
}

/// Boots a guest with the disk that `option` describes.
fn with_disk(option: &str, cpus: &'static str) -> Result<Vm> {
    let arguments = vec!["--disk".to_owned(), option.to_owned()];
    let mut vm = Options { arguments, cpus, ..Options::default() }.boot()?;
    vm.guest.wait_for("the disk", "test -b /dev/vda")?;
    Ok(vm)
}

fn add(vm: &Vm, image: &Path, id: &str) -> Result {
    vm.api.put_json("vm.add-disk", &json!({ "path": image, "id": id }))?.ok().map(drop)
}

/// The guest reads the whole disk anew, and finds what has this sum.
fn reads(vm: &mut Vm, disk: &str, sum: &str) -> Result {
    let command = format!("echo 3 >/proc/sys/vm/drop_caches; sha256sum /dev/{disk} | cut -c1-64");
    let read = vm.guest.run(&command)?;
    ensure(read == sum, || format!("the guest reads {read} from {disk}, and it is {sum}"))
}

/// Images that go with the scene.
struct Images(TempDir);

impl Images {
    fn new() -> Result<Self> {
        tempfile::tempdir().doing("make a folder").map(Self)
    }

    /// One full of random bytes.
    fn random(&self, name: &str, mib: u64) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        let mut bytes = vec![0; usize::try_from(mib * MIB).unwrap_or(0)];
        fastrand::fill(&mut bytes);
        fs::write(&path, bytes).doing("make an image")?;
        Ok(path)
    }

    /// A folder with room for 4 MiB.
    fn small_file_system(&self) -> Result<PathBuf> {
        let folder = self.0.path().join("small");
        fs::create_dir(&folder).doing("make a folder")?;
        let mount = ["-t", "tmpfs", "-o", "size=4m", "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(&folder).status().doing("run mount")?;
        ensure(mounted.success(), || format!("no file system: {mounted}"))?;
        Ok(folder)
    }

    /// One that holds nothing.
    fn empty(&self, name: &str, mib: u64) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        File::create(&path).and_then(|file| file.set_len(mib * MIB)).doing("make an image")?;
        Ok(path)
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        // Most have none.
        let _ = Command::new("umount").args(["-q", "-l"]).arg(self.0.path().join("small")).status();
    }
}

fn sum(image: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(image).output().doing("run sha256sum")?;
    Ok(String::from_utf8_lossy(&output.stdout).chars().take(64).collect())
}
