//! The function of kvmtool's commit: a legacy virtio NIC, whose device configuration begins at offset 20 of
//! BAR 0, or at 24 while MSI-X is on (Virtual I/O Device 1.2, 4.1.4.10). The physical state follows what the
//! guest has made of the capability, so each reads what it expects.

use api::schema::interrupts::InterruptMode;
use tests::bench::{Bench, Stimulus};
use tests::error::{ensure, same};
use tests::guest::Guest;
use tests::registers::{RELAXED_AND_BARE, Width, command};
use tests::tally::Row;
use tests::{Kind, Options, Result, in_lab};

/// Where the MAC address is while MSI-X is off, and while it is on.
const OFF: u64 = 20;
const ON: u64 = 24;

#[test]
fn legacy_function_shows_its_configuration_where_the_guest_looks() {
    in_lab(|host| {
        let nic = Kind::VirtioLegacy.take(host)?;
        let mut vm = Options { words: RELAXED_AND_BARE, ..Options::default() }.boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        without_driver(&mut vm.guest, &bdf)?;
        let mut bench = Bench::new(&mut vm, "nic0", &bdf, Stimulus::Loopback)?;
        // No bus master: it must not touch memory.
        let answers = command::IO | command::MEMORY | command::INTX_DISABLE;
        let function = bench.msix.function.clone();
        function.config_write(&mut bench.vm.guest, Width::Word, command::REGISTER, answers)?;
        let mac = read_io(&mut bench.vm.guest, &bdf, OFF)?;
        ensure(mac.starts_with("5254"), || format!("{mac} is none of the lab's MAC addresses"))?;

        for _ in 0..2 {
            bench.msix.enable(&mut bench.vm.guest, true)?;
            bench.vm.mode_becomes("nic0", InterruptMode::Msix)?;
            same("at 24, MSI-X on", &read_io(&mut bench.vm.guest, &bdf, ON)?, &mac)?;
            let vectors = read_io(&mut bench.vm.guest, &bdf, OFF)?;
            ensure(vectors.starts_with("ffff"), || format!("at 20, MSI-X on: {vectors}"))?;
            bench.mask_function(true)?;
            same("at 24, function masked", &read_io(&mut bench.vm.guest, &bdf, ON)?, &mac)?;
            bench.mask_function(false)?;
            let fence = bench.spare(0, Row::Posted, 0)?;
            bench.unmask(&fence)?;
            bench.fence(&fence)?;
            bench.mask(&fence)?;

            bench.msix.enable(&mut bench.vm.guest, false)?;

            bench.vm.mode_becomes("nic0", InterruptMode::None)?;
            same("at 20, MSI-X off", &read_io(&mut bench.vm.guest, &bdf, OFF)?, &mac)?;
        }
        vm.remove("nic0")
    });
}

/// The transport's driver is built into the guest's kernel.
fn without_driver(guest: &mut Guest, bdf: &str) -> Result {
    let device = format!("/sys/bus/pci/devices/{bdf}");
    guest.wait_for("the driver is there", &format!("[ -e {device}/driver ]"))?;
    guest.run(&format!("echo {bdf} >{device}/driver/unbind")).map(drop)
}

/// Six bytes of BAR 0, an I/O BAR, one port at a time.
fn read_io(guest: &mut Guest, bdf: &str, offset: u64) -> Result<String> {
    guest.run(&format!(
        "dd if=/sys/bus/pci/devices/{bdf}/resource0 bs=1 skip={offset} count=6 2>/dev/null | xxd -p"
    ))
}
