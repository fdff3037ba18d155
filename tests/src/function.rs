//! The kinds of PCI functions the lab has, and how a guest shows that it can use one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::artifacts::variable;
use crate::error::{Doing, Error, Result, ensure};
use crate::guest::Guest;
use crate::host::{Bdf, Host};
use crate::wait::{Look, until};

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
    /// NVMe disk with a table of 2,048 vectors; it holds zeros.
    NvmeWide,
    /// Another such disk.
    NvmeWide2,
    /// NVMe disk with a single vector; it holds zeros.
    NvmeNarrow,
    /// virtio console of which Linux takes 64 vectors, all there are.
    Virtio64,
    /// virtio console of which Linux takes 1,024 vectors, all there are.
    Virtio1024,
    /// virtio NIC of the legacy kind: its device configuration moves when MSI-X comes on. Its DMA goes past
    /// the lab's IOMMU, so it has registers for a scene, and no data path.
    VirtioLegacy,
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
            Self::NvmeWide => (host.function("HOTBAY_NVME_WIDE")?, None),
            Self::NvmeWide2 => (host.function("HOTBAY_NVME_WIDE_2")?, None),
            Self::NvmeNarrow => (host.function("HOTBAY_NVME_NARROW")?, None),
            Self::Virtio64 => (host.function("HOTBAY_VIRTIO_64")?, None),
            Self::Virtio1024 => (host.function("HOTBAY_VIRTIO_1024")?, None),
            Self::VirtioLegacy => (host.function("HOTBAY_VIRTIO_LEGACY")?, None),
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
            Self::Nvme | Self::NvmeWide | Self::NvmeWide2 | Self::NvmeNarrow => "nvme",
            Self::Virtio64 | Self::Virtio1024 | Self::VirtioLegacy => "virtio-pci",
        }
    }

    /// Whether the lab keeps it from the host's own drivers, which would take its vectors: it belongs to
    /// vfio-pci from the start, and stays there.
    fn is_reserved(self) -> bool {
        matches!(self, Self::Virtio64 | Self::Virtio1024 | Self::VirtioLegacy)
    }

    /// Waits for the driver in the guest and uses the function: three pings, the whole disk read, or a line
    /// written to the console's port, which the lab receives.
    pub fn use_in(self, guest: &mut Guest) -> Result {
        match self {
            Self::E1000e | Self::Igb | Self::IgbVf => self.ping(guest),
            Self::Nvme => read_disk(guest),
            Self::NvmeWide => read_zeros(guest, "wide1"),
            Self::NvmeWide2 => read_zeros(guest, "wide2"),
            Self::NvmeNarrow => read_zeros(guest, "narrow"),
            Self::Virtio64 => write_to_port(guest, "64"),
            Self::Virtio1024 => write_to_port(guest, "1024"),
            Self::VirtioLegacy => Err(Error::Unexpected(
                "a legacy virtio function has no data path in the lab".into(),
            )),
        }
    }

    /// Interrupts a 6.12 guest counted so far on this function's MSI-X vectors, all processors
    /// together. `bdf` is its address in the guest.
    pub fn msix_count(self, guest: &mut Guest, bdf: &str) -> Result<u64> {
        // Linux 6.12 names the chip "PCI-MSIX-0000:00:02.0"; 6.1 does not say whose it is.
        let counted = guest.run(&format!(
            "awk '/PCI-MSIX-{bdf}/ {{ for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i }} END {{ print n + 0 }}' /proc/interrupts"
        ))?;
        counted.parse().map_err(|_| Error::Unexpected(format!("no count: {counted}")))
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
        // As busybox's ping and that of iputils both say it.
        ensure(report.contains(" 0% packet loss"), || format!("pings were lost: {report}"))
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

/// Linux makes a disk's node a moment before it can be opened.
fn wait_for_disk(guest: &mut Guest, disk: &str) -> Result {
    guest.wait_for("the disk has appeared", &format!("dd if={disk} count=0 2>/dev/null")).map(drop)
}

fn read_disk(guest: &mut Guest) -> Result {
    let known = variable("HOTBAY_DISK_SHA256")?;
    wait_for_disk(guest, "/dev/nvme0n1")?;
    let read = guest.run("sha256sum /dev/nvme0n1")?;
    ensure(read.starts_with(&known), || format!("the disk holds {known}, the guest read {read}"))
}

/// Reads a whole disk of zeros, which is found by its serial number: names depend on who came first.
fn read_zeros(guest: &mut Guest, serial: &str) -> Result {
    let controller = named(guest, "/sys/class/nvme/*/serial", serial)?;
    let disk = format!("/dev/{controller}n1");
    wait_for_disk(guest, &disk)?;
    guest.run(&format!("cmp -n {WIDE_DISK} {disk} /dev/zero")).map(drop)
}

/// Bytes of such a disk.
const WIDE_DISK: u64 = 64 << 20;

/// Writes a line to the port `hotbay.{name}`, and finds it where the lab's console keeps it.
fn write_to_port(guest: &mut Guest, name: &str) -> Result {
    let port = named(guest, "/sys/class/virtio-ports/*/name", &format!("hotbay.{name}"))?;
    guest.wait_for("its file is there", &format!("[ -c /dev/{port} ]"))?;
    let kept = Path::new(&variable("HOTBAY_LAB_RUN")?).join(format!("port{name}"));
    let read = || fs::read_to_string(&kept).doing(format!("read {}", kept.display()));
    let expected = read()? + "from the guest\n";
    guest.run(&format!("echo from the guest >/dev/{port}"))?;
    until("the guest's line", PORT_LIMIT, || {
        let now = read()?;
        Ok(if now == expected { Look::Holds(()) } else { Look::NotYet(now) })
    })
}

/// Waits for a device of the guest whose attribute reads `value`; its name.
fn named(guest: &mut Guest, attributes: &str, value: &str) -> Result<String> {
    guest.wait_for(
        &format!("a device with {value} in {attributes}"),
        &format!(
            "found=; for file in {attributes}; do read -r value <$file && [ \"$value\" = {value} ] && \
             basename ${{file%/*}} && found=1; done; [ \"$found\" ]"
        ),
    )
}

/// Between the end of a write in the guest and the line in the lab's file.
const PORT_LIMIT: Duration = Duration::from_secs(10);

impl Drop for Function<'_> {
    fn drop(&mut self) {
        if self.kind.is_reserved() {
            return;
        }
        // A scene that failed may have left it in use; the next one's `take` then says so.
        let _ = self.host.release(&self.bdf);
        if let Some(parent) = &self.parent {
            let _ = self.host.no_virtual_functions(parent);
        }
    }
}
