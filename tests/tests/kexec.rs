//! Case 20 of the MSI-X design, where nobody resets a function: a second kernel starts in the guest.

use std::fs;
use std::path::{Path, PathBuf};

use api::schema::interrupts::InterruptMode;
use tests::artifacts::{pack, variable};
use tests::error::{Doing, ensure};
use tests::{Flavour, Function, Kind, Options, Result, Vm, in_lab};

#[test]
fn case_20_a_second_kernel_takes_the_function_over() {
    in_lab(|host| {
        let nic = Kind::Igb.take(host)?;
        let (mut vm, bdf) = guest_with_a_second_kernel("", &nic)?;
        vm.guest.run(&load("--load"))?;

        vm.guest.type_in("kexec --exec\n")?;

        function_is_taken_over(&mut vm, nic.kind, &bdf)
    });
}

/// The first kernel stops where it is: its drivers are not asked, MSI-X stays on, the NIC goes on.
#[test]
fn case_20_a_crash_kernel_takes_the_function_over_with_msix_on() {
    in_lab(|host| {
        let nic = Kind::Igb.take(host)?;
        let (mut vm, bdf) = guest_with_a_second_kernel("crashkernel=256M", &nic)?;
        vm.guest.run(&load("--load-panic"))?;
        vm.guest.type_in("ping -i 0.01 10.0.2.2 >/dev/null &\n")?;

        vm.guest.type_in("echo c >/proc/sysrq-trigger\n")?;

        function_is_taken_over(&mut vm, nic.kind, &bdf)
    });
}

/// A guest that uses the function, with kexec and a kernel in its root.
fn guest_with_a_second_kernel(words: &'static str, nic: &Function<'_>) -> Result<(Vm, String)> {
    let dir = tempfile::tempdir().doing("make a folder")?;
    let archives = vec![PathBuf::from(variable("KEXEC")?), second_kernel(dir.path())?];
    let options =
        Options { cpus: "boot=2", memory: "size=1G", words, archives, ..Options::default() };
    let mut vm = options.boot()?;
    let bdf = vm.add(&nic.bdf, "nic0")?;
    nic.kind.use_in(&mut vm.guest)?;
    vm.mode_becomes("nic0", InterruptMode::Msix)?;
    Ok((vm, bdf))
}

/// An archive with a kernel and an initramfs in `/boot`.
fn second_kernel(dir: &Path) -> Result<PathBuf> {
    let flavour = Flavour::Amd64V6_12;
    let (root, archive) = (dir.join("root"), dir.join("second"));
    fs::create_dir_all(root.join("boot")).doing("make a folder")?;
    fs::copy(flavour.kernel()?, root.join("boot/vmlinuz")).doing("copy a kernel")?;
    fs::copy(flavour.initramfs()?, root.join("boot/initramfs")).doing("copy an initramfs")?;
    pack(&root, &archive)?;
    Ok(archive)
}

/// The command that loads the second kernel, which will load no driver by itself.
fn load(how: &str) -> String {
    let words = "console=ttyS0 quiet panic=-1 nr_cpus=1 hotbay.modules=none";
    format!(
        "kexec --kexec-file-syscall {how} /boot/vmlinuz --initrd=/boot/initramfs --command-line='{words}'"
    )
}

/// In the second kernel: it has found the function and switched its interrupts off; its driver works.
fn function_is_taken_over(vm: &mut Vm, kind: Kind, bdf: &str) -> Result {
    vm.guest.ready()?;
    vm.guest.run("grep nr_cpus=1 /proc/cmdline")?;
    vm.guest.run(&format!("[ -e /sys/bus/pci/devices/{bdf} ]"))?;
    let seen = vm.interrupts("nic0")?;
    ensure(seen.mode != InterruptMode::Msix, || format!("MSI-X is still on: {seen:?}"))?;
    let live = seen.vectors.iter().any(|vector| vector.guest.live);
    ensure(!live, || format!("vectors are live: {seen:?}"))?;
    vm.guest.run("modprobe af_packet; modprobe igb")?;
    kind.use_in(&mut vm.guest)?;
    vm.mode_becomes("nic0", InterruptMode::Msix)
}
