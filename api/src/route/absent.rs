//! Cloud Hypervisor's verbs that hotbay does not have, and what to do instead. Each is
//! answered 501 with that sentence. A verb that hotbay gets leaves this table and enters
//! [`super::ROUTES`].

use micro_http::Method;

use crate::request::{Fault, Status, code};

/// A verb that hotbay does not have.
#[derive(Debug)]
pub struct Absent {
    /// Last part of the path, such as `vm.snapshot`.
    pub verb: &'static str,
    /// The one method it answers to, in Cloud Hypervisor.
    pub method: Method,
    /// What hotbay offers in its place: a sentence without a full stop.
    pub instead: &'static str,
}

impl Absent {
    /// The refusal.
    pub(super) fn fault(&self) -> Fault {
        let sentence = format_args!("hotbay does not offer {}; {}", self.verb, self.instead);
        Fault::plain(Status::NotImplemented, code::API_NOT_IMPLEMENTED, sentence)
    }
}

/// Every verb of Cloud Hypervisor (v53) that hotbay does not have.
pub const ABSENT: &[Absent] = &[
    put("vm.add-fs", "share files over a passed-through network card"),
    put("vm.add-generic-vhost-user", DEVICES),
    put("vm.add-pmem", DEVICES),
    put("vm.add-vdpa", "vm.add-device takes the function behind it when vfio-pci has it"),
    Absent {
        verb: "vm.balloon-stats",
        method: Method::Get,
        instead: "vm.info has the RAM without what is in the balloon, vm.counters what has been given back",
    },
    put("vm.coredump", "vm.nmi makes a guest that is set up for it (kdump) dump itself"),
    put("vm.receive-migration", STAYS),
    put(
        "vm.resize-disk",
        "take the disk away (vm.remove-device), resize its image, and add it again",
    ),
    put("vm.resize-zone", "shut the VM down, and create it with another memory.size"),
    put("vm.restore", STAYS),
    put("vm.send-migration", STAYS),
    put("vm.snapshot", STAYS),
    put("vmm.nmi", "it is called vm.nmi"),
];

/// Instead of a paravirtual device.
const DEVICES: &str = "vm.add-device hands a controller or network card of the host to the guest";

/// Instead of what leaves the machine.
const STAYS: &str =
    "a guest with passed-through devices stays where it is; vm.pause and vm.resume hold it there";

/// A verb that is asked with PUT.
const fn put(verb: &'static str, instead: &'static str) -> Absent {
    Absent { verb, method: Method::Put, instead }
}
