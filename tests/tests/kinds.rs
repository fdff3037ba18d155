//! Case 16 of the MSI-X design: INTx, MSI and MSI-X replace each other, as drivers ask for them and in the
//! guest's own hand.

use api::schema::interrupts::InterruptMode::{self, Intx, Msi, Msix};
use tests::error::{ensure, same};
use tests::registers::msix::Message;
use tests::registers::{self, Registers, Width, capability};
use tests::tally::Row;
use tests::wait::{Look, until};
use tests::{Kind, Options, Result, Vm, in_lab};

use std::time::Duration;

#[test]
fn case_16_the_driver_asks_for_each_kind_in_any_order() {
    in_lab(|host| {
        let nic = Kind::E1000e.take(host)?;
        let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;
        vm.add(&nic.bdf, "nic0")?;
        nic.kind.use_in(&mut vm.guest)?;
        vm.mode_becomes("nic0", Msix)?;

        for asked in [Intx, Msi, Msix, Intx, Msix] {
            vm.guest.run("rmmod e1000e")?;
            vm.guest.run(&format!("modprobe e1000e IntMode={}", parameter(asked)))?;
            nic.kind.use_in(&mut vm.guest)?;
            // QEMU's e1000e fails the driver's test of MSI on bare metal too: from MSI it goes on to INTx.
            vm.mode_becomes("nic0", if asked == Msix { Msix } else { Intx })?;
        }
        vm.remove("nic0")
    });
}

#[test]
fn case_16_a_guest_without_messages_uses_the_lines() {
    in_lab(|host| {
        let (nic, disk) = (Kind::Igb.take(host)?, Kind::Nvme.take(host)?);
        let mut vm = Options { words: "pci=nomsi", ..Options::default() }.boot()?;
        vm.add(&nic.bdf, "nic0")?;
        vm.add(&disk.bdf, "disk0")?;

        nic.kind.use_in(&mut vm.guest)?;
        disk.kind.use_in(&mut vm.guest)?;

        vm.mode_becomes("nic0", Intx)?;
        vm.mode_becomes("disk0", Intx)
    });
}

#[test]
fn case_16_the_hardware_fires_as_each_kind_in_any_order() {
    in_lab(|host| {
        let nic = Kind::Igb.take(host)?;
        let words = registers::RELAXED_AND_BARE;
        let mut vm = Options { words, ..Options::default() }.boot()?;
        let bdf = vm.add(&nic.bdf, "nic0")?;
        let mut hand = Hand::of(&mut vm, &bdf)?;

        for kind in [Intx, Msix, Intx, Msi, Msix, Msi, Intx, Msix] {
            hand.switch_to(kind)?;
            hand.fires_as(kind)?;
        }
        hand.switch_to(Msi)?;
        hand.msi_is_masked_by_its_own_bit()
    });
}

/// The e1000e driver's parameter that says what it asks for.
fn parameter(mode: InterruptMode) -> u8 {
    match mode {
        InterruptMode::None | Intx => 0,
        Msi => 1,
        Msix => 2,
    }
}

/// Interrupt registers of Intel's 82576 as it has them after reset, when every cause is vector 0's (its data
/// sheet, 8.8, at their old addresses), and the cause "link status change".
mod igb {
    pub(super) const CAUSE: u64 = 0xc0;
    pub(super) const CAUSE_SET: u64 = 0xc8;
    pub(super) const MASK_SET: u64 = 0xd0;
    pub(super) const LINK: u64 = 1 << 2;
}

/// MSI, within its capability, with 64-bit addresses (PCI 3.0, 6.8.1).
mod msi {
    pub(super) const CONTROL: u16 = 2;
    pub(super) const ADDRESS: u16 = 4;
    pub(super) const DATA: u16 = 12;
    pub(super) const MASK: u16 = 16;
    pub(super) const PENDING: u16 = 20;
    pub(super) const ENABLE: u64 = 1;
}

const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// An igb without a driver. Its MSI-X sends one interrupt, its MSI another.
struct Hand<'v> {
    vm: &'v mut Vm,
    msix: registers::Msix,
    msi: u16,
}

impl<'v> Hand<'v> {
    fn of(vm: &'v mut Vm, bdf: &str) -> Result<Self> {
        let guest = &mut vm.guest;
        let msix = registers::Msix::of(guest, bdf)?;
        let function = &msix.function;
        let msi = function.capability(capability::MSI)?;
        function.switch_on(guest, false)?;
        function.write32(guest, 0, igb::MASK_SET, igb::LINK)?;
        let message = Message::interrupt(0, 0xf0);
        function.config_write(guest, Width::Dword, msi + msi::ADDRESS, message.address)?;
        function.config_write(guest, Width::Word, msi + msi::DATA, message.data)?;
        msix.write_message(guest, 0, Message::interrupt(0, 0xf2))?;
        msix.unmask(guest, 0)?;
        Ok(Self { vm, msix, msi })
    }

    fn function(&self) -> &Registers {
        &self.msix.function
    }

    /// The old kind off, then the new one on.
    fn switch_to(&mut self, kind: InterruptMode) -> Result {
        let (msi, msix) = (self.msi + msi::CONTROL, self.msix.clone());
        let function = &msix.function;
        let guest = &mut self.vm.guest;
        function.switch_on(guest, false)?;
        function.config_write(guest, Width::Word, msi, 0)?;
        msix.enable(guest, false)?;
        self.vm.mode_becomes("nic0", InterruptMode::None)?;
        let guest = &mut self.vm.guest;
        match kind {
            InterruptMode::None => {}
            Intx => function.switch_on(guest, true)?,
            Msi => function.config_write(guest, Width::Word, msi, msi::ENABLE)?,
            Msix => msix.enable(guest, true)?,
        }
        self.vm.mode_becomes("nic0", kind)
    }

    /// One cause, where there was none before.
    fn fire(&mut self) -> Result {
        let function = self.msix.function.clone();
        function.write32(&mut self.vm.guest, 0, igb::CAUSE, u64::from(u32::MAX))?;
        function.write32(&mut self.vm.guest, 0, igb::CAUSE_SET, igb::LINK)
    }

    /// Fires once, which is counted once, as this kind and as no other.
    fn fires_as(&mut self, kind: InterruptMode) -> Result {
        let before = self.counted()?;
        let mut expected = before;
        let counter = match kind {
            Msix => &mut expected[0],
            Msi => &mut expected[1],
            InterruptMode::None | Intx => &mut expected[2],
        };
        *counter += 1;
        self.fire()?;
        until(&format!("{expected:?} interrupts of MSI-X, MSI, INTx"), ARRIVAL_LIMIT, || {
            let now = self.counted()?;
            Ok(if now == expected { Look::Holds(()) } else { Look::NotYet(format!("{now:?}")) })
        })
    }

    /// What the guest has counted of MSI-X and of MSI; what the host has of INTx, because the guest's pin
    /// is masked. The host counts those of its neighbours on the line too, of which there are none.
    fn counted(&mut self) -> Result<[u64; 3]> {
        let line = self.vm.interrupts("nic0")?.line.and_then(|line| line.host);
        let guest = &mut self.vm.guest;
        Ok([Row::Posted.count(guest)?, Row::Nested.count(guest)?, line.unwrap_or(0)])
    }

    fn msi_is_masked_by_its_own_bit(&mut self) -> Result {
        let before = self.counted()?;
        let (mask, pending) = (self.msi + msi::MASK, self.msi + msi::PENDING);
        let function = self.function().clone();
        function.config_write(&mut self.vm.guest, Width::Dword, mask, 1)?;
        self.fire()?;
        until("MSI's pending bit", ARRIVAL_LIMIT, || {
            let bits = function.config_read(&mut self.vm.guest, Width::Dword, pending)?;
            Ok(if bits == 1 { Look::Holds(()) } else { Look::NotYet(format!("{bits:#x}")) })
        })?;
        same("interrupts while masked", &self.counted()?, &before)?;

        function.config_write(&mut self.vm.guest, Width::Dword, mask, 0)?;

        Row::Nested.reaches(&mut self.vm.guest, before[1] + 1)?;
        let bits = function.config_read(&mut self.vm.guest, Width::Dword, pending)?;
        ensure(bits == 0, || format!("pending bits {bits:#x} after the unmask"))
    }
}
