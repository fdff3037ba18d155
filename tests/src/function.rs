//! The kinds of PCI functions the lab has, and how a guest shows that it can use one.

use crate::artifacts::variable;
use crate::error::{Result, ensure};
use crate::guest::Guest;
use crate::host::{Bdf, Host};

/// A kind of function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Intel 82574: five MSI-X vectors, the table in a BAR of its own.
    E1000e,
    /// Intel 82576, physical function.
    Igb,
    /// Its virtual function: no INTx, no FLR-less reset, BARs from the physical one.
    IgbVf,
    /// NVMe disk whose content is known.
    Nvme,
}

/// A function of the host that vfio-pci holds. Given back when dropped.
#[derive(Debug)]
pub struct Function<'h> {
    /// Its address in the host.
    pub bdf: Bdf,
    /// Its kind.
    pub kind: Kind,
    host: &'h Host,
    /// The physical function that made it.
    parent: Option<Bdf>,
}

impl Kind {
    /// Takes this function of the host and binds it to vfio-pci.
    pub fn take(self, host: &Host) -> Result<Function<'_>> {
        let (bdf, parent) = match self {
            Self::E1000e => (host.function("HOTBAY_E1000E")?, None),
            Self::Igb => (host.function("HOTBAY_IGB")?, None),
            Self::Nvme => (host.function("HOTBAY_NVME")?, None),
            Self::IgbVf => {
                let physical = host.function("HOTBAY_IGB")?;
                (host.virtual_function(&physical)?, Some(physical))
            }
        };
        let function = Function { bdf, kind: self, host, parent };
        host.bind(&function.bdf)?;
        Ok(function)
    }

    /// Name of the guest driver.
    pub fn driver(self) -> &'static str {
        match self {
            Self::E1000e => "e1000e",
            Self::Igb => "igb",
            Self::IgbVf => "igbvf",
            Self::Nvme => "nvme",
        }
    }

    /// Waits for the driver in the guest and uses the function: three pings, or the whole disk read.
    pub fn use_in(self, guest: &mut Guest) -> Result {
        match self {
            Self::E1000e | Self::Igb | Self::IgbVf => self.ping(guest),
            Self::Nvme => read_disk(guest),
        }
    }

    /// Interrupts a 6.12 guest counted so far on this function's MSI-X vectors, all processors
    /// together. `bdf` is its address in the guest.
    pub fn msix_count(self, guest: &mut Guest, bdf: &str) -> Result<u64> {
        // Linux 6.12 names the chip "PCI-MSIX-0000:00:02.0"; 6.1 does not say whose it is.
        let counted = guest.run(&format!(
            "awk '/PCI-MSIX-{bdf}/ {{ for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i }} END {{ print n + 0 }}' /proc/interrupts"
        ))?;
        counted.parse().map_err(|_| crate::Error::Unexpected(format!("no count: {counted}")))
    }

    /// Brings the interface up and pings the lab's router through it, and through no other.
    fn ping(self, guest: &mut Guest) -> Result {
        let net = self.interface(guest)?;
        guest.run(&format!(
            "ip link set {net} up; ip addr flush dev {net}; ip addr add {ADDRESS} dev {net}"
        ))?;
        guest.wait_for(
            &format!("{net} has a carrier"),
            &format!("grep 1 /sys/class/net/{net}/carrier"),
        )?;
        // The first packet may be lost while the address is resolved.
        guest.wait_for(
            &format!("{ROUTER} answers through {net}"),
            &format!("ping -c 1 -W 2 -I {net} {ROUTER}"),
        )?;
        let report = guest.run(&format!("ping -c 3 -W 5 -I {net} {ROUTER}"))?;
        ensure(report.contains("3 packets received"), || format!("pings were lost: {report}"))
    }

    /// Name of the interface that this kind's driver made.
    pub fn interface(self, guest: &mut Guest) -> Result<String> {
        let driver = self.driver();
        guest.wait_for(
            &format!("{driver} has made a network interface"),
            &format!(
                "found=; for net in /sys/class/net/*; do case $(readlink -f $net/device/driver) in \
                 */{driver}) echo ${{net##*/}}; found=1;; esac; done; [ \"$found\" ]"
            ),
        )
    }
}

/// The only network of the lab: QEMU's user mode, without a way out.
const ADDRESS: &str = "10.0.2.15/24";
const ROUTER: &str = "10.0.2.2";

fn read_disk(guest: &mut Guest) -> Result {
    let known = variable("HOTBAY_DISK_SHA256")?;
    guest.wait_for("the disk has appeared", "[ -b /dev/nvme0n1 ]")?;
    let read = guest.run("sha256sum /dev/nvme0n1")?;
    ensure(read.starts_with(&known), || format!("the disk holds {known}, the guest read {read}"))
}

impl Drop for Function<'_> {
    fn drop(&mut self) {
        // A scene that failed may have left it in use; the next one's `take` then says so.
        let _ = self.host.release(&self.bdf);
        if let Some(parent) = &self.parent {
            let _ = self.host.no_virtual_functions(parent);
        }
    }
}
