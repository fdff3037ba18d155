//! Functions of the host are plugged into a running guest, used, unplugged, and plugged again.

use tests::error::{ensure, same};
use tests::registers::{RELAXED, RELAXED_AND_BARE, Registers};
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

/// A NIC that a killed VMM's guest left with its receiver on would write what comes from the network to the RAM of the
/// next guest, from the moment that a driver lets it be a bus master. VFIO's own reset at its opening does not end
/// that: this NIC keeps its registers when its power state changes.
#[test]
fn function_that_a_killed_vmm_left_receiving_reaches_the_next_guest_reset() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut first = Options { words: RELAXED, ..Options::default() }.boot()?;
        let bdf = first.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut first.guest)?;
        let used = Registers::of(&mut first.guest, &bdf)?;
        let receiver = used.read32(&mut first.guest, 0, RECEIVE_CONTROL)?;
        ensure(receiver & RECEIVER_ON != 0, || format!("it never received: {receiver:#x}"))?;
        let ring = used.read32(&mut first.guest, 0, RECEIVE_RING)?;
        ensure(ring != 0, || "it has no ring".to_owned())?;

        drop(first); // by SIGKILL
        let mut second = Options { words: RELAXED_AND_BARE, ..Options::default() }.boot()?;
        let bdf = second.add(&nic.bdf, "nic0")?;

        let fresh = Registers::of(&mut second.guest, &bdf)?;
        fresh.switch_on(&mut second.guest, false)?;
        let receiver = fresh.read32(&mut second.guest, 0, RECEIVE_CONTROL)?;
        same("whether it receives", &(receiver & RECEIVER_ON), &0)?;
        same("its ring", &fresh.read32(&mut second.guest, 0, RECEIVE_RING)?, &0)?;
        let reset = second.info()?["device_tree"]["nic0"]["reset"].take();
        same("how it is reset", &reset["method"], &"hot_reset".into())?;
        same("what that came to", &reset["last"], &"Done".into())
    });
}

/// Receive Control of an Intel 82574 in BAR 0, its bit EN, and the low half of its first receive ring's address
/// (82574 datasheet, 10.2.5.1 and 10.2.5.6).
const RECEIVE_CONTROL: u64 = 0x100;
const RECEIVER_ON: u64 = 1 << 1;
const RECEIVE_RING: u64 = 0x2800;

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
