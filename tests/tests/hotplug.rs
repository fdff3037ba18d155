//! Functions of the host are plugged into a running guest, used, unplugged, and plugged again.

use tests::error::ensure;
use tests::{Host, Kind, Options, Result, Vm, in_lab};

#[test]
fn e1000e_is_used_unplugged_and_used_again() {
    in_lab(|host| plug_twice(host, Kind::E1000e, Options::default()));
}

#[test]
fn e1000e_works_with_four_processors_and_memory_past_the_hole() {
    let big = Options { cpus: "boot=4", memory: "size=5G", ..Options::default() };
    in_lab(|host| plug_twice(host, Kind::E1000e, big));
}

#[test]
fn igb_is_used_unplugged_and_used_again() {
    in_lab(|host| plug_twice(host, Kind::Igb, Options { cpus: "boot=4", ..Options::default() }));
}

#[test]
fn virtual_function_of_an_igb_is_used_unplugged_and_used_again() {
    in_lab(|host| plug_twice(host, Kind::IgbVf, Options { cpus: "boot=2", ..Options::default() }));
}

#[test]
fn nvme_disk_is_read_unplugged_and_read_again() {
    in_lab(|host| plug_twice(host, Kind::Nvme, Options { cpus: "boot=4", ..Options::default() }));
}

#[test]
fn device_given_at_boot_works_beside_one_added_later_and_can_be_replugged() {
    in_lab(|host| {
        let (disk, nic) = (Kind::Nvme.take(host)?, Kind::E1000e.take(host)?);
        let devices = vec![(disk.bdf.clone(), "disk0")];
        let mut vm = Options { devices, ..Options::default() }.boot()?;
        disk.kind.use_in(&mut vm.guest)?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;

        vm.remove("disk0")?;
        vm.add(&disk.bdf, "disk0")?;

        disk.kind.use_in(&mut vm.guest)?;
        nic.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn two_devices_work_at_once_and_leave_one_by_one() {
    in_lab(|host| {
        let (disk, nic) = (Kind::Nvme.take(host)?, Kind::Igb.take(host)?);
        let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;
        vm.add(&disk.bdf, "disk0")?;
        vm.add(&nic.bdf, "nic0")?;
        vm.guest.type_in("sha256sum /dev/nvme0n1 >/tmp/sum & \n")?;
        nic.kind.use_in(&mut vm.guest)?;
        disk.kind.use_in(&mut vm.guest)?;

        vm.remove("disk0")?;

        nic.kind.use_in(&mut vm.guest)?;
        vm.remove("nic0")
    });
}

#[test]
fn case_20_guest_with_a_device_reboots_and_uses_it_again() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options::default().boot()?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;

        vm.guest.type_in("reboot -f\n")?;
        vm.guest.ready()?;

        nic.kind.use_in(&mut vm.guest)
    });
}

#[test]
fn killed_vmm_leaves_a_function_that_works() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut first = Options::default().boot()?;
        first.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut first.guest)?;

        drop(first); // by SIGKILL
        let mut second = Options::default().boot()?;
        second.add(&nic.bdf, "nic0")?;

        nic.kind.use_in(&mut second.guest)
    });
}

/// Plugs, uses and unplugs twice, and the guest counts interrupts each time; afterwards the VMM holds what it
/// held before.
fn plug_twice(host: &Host, kind: Kind, options: Options) -> Result {
    let function = kind.take(host)?;
    let mut vm = options.boot()?;
    let before = vm.settled_descriptors(host)?;
    for _ in 0..2 {
        let bdf = vm.add(&function.bdf, "dev0")?;
        kind.use_in(&mut vm.guest)?;
        let counted = kind.msix_count(&mut vm.guest, &bdf)?;
        ensure(counted > 0, || "the guest has counted no interrupt".to_owned())?;
        vm.remove("dev0")?;
        nothing_is_left(&mut vm)?;
    }
    vm.descriptors_return_to(host, before)
}

fn nothing_is_left(vm: &mut Vm) -> Result {
    let left = vm.guest.run("ls /sys/class/nvme /sys/class/net | grep -v -e : -e lo || true")?;
    ensure(left.is_empty(), || format!("the guest still has {left}"))
}
