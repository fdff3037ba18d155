//! What ch-remote says, and what it is to hear, in the order of a VM's life.

/// One subcommand.
pub struct Step {
    /// Method and verb.
    pub request: &'static str,
    /// As ch-remote writes it; `KERNEL` stands for the path of a kernel.
    pub body: Option<&'static str>,
    pub status: u16,
    pub says: Says,
}

/// What an answer's body is.
pub enum Says {
    /// There is none, and no `Content-Length`.
    Nothing,
    /// JSON with this in it.
    Json(&'static str),
    /// Strings, the first of which begins with this code.
    Refusal(&'static str),
}

impl Step {
    /// Whether it is of the subcommand that asks this verb.
    pub fn is(&self, verb: &str) -> bool {
        self.request.split_once(' ').is_some_and(|(_, own)| own == verb)
    }
}

/// The verbs behind ch-remote's subcommands.
pub const SUBCOMMANDS: &[&str] = &[
    "vm.add-device",
    "vm.add-disk",
    "vm.add-fs",
    "vm.add-generic-vhost-user",
    "vm.add-net",
    "vm.add-pmem",
    "vm.add-user-device",
    "vm.add-vdpa",
    "vm.add-vsock",
    "vm.boot",
    "vm.coredump",
    "vm.counters",
    "vm.create",
    "vm.delete",
    "vm.info",
    "vm.nmi",
    "vm.pause",
    "vmm.ping",
    "vm.power-button",
    "vm.reboot",
    "vm.receive-migration",
    "vm.remove-device",
    "vm.resize",
    "vm.resize-disk",
    "vm.resize-zone",
    "vm.restore",
    "vm.resume",
    "vm.send-migration",
    "vm.shutdown",
    "vmm.shutdown",
    "vm.snapshot",
];

/// An answer without a body.
const fn done(request: &'static str, body: Option<&'static str>) -> Step {
    Step { request, body, status: 204, says: Says::Nothing }
}

/// An answer with one.
const fn json(request: &'static str, part: &'static str) -> Step {
    Step { request, body: None, status: 200, says: Says::Json(part) }
}

const fn no(
    request: &'static str,
    body: Option<&'static str>,
    (status, code): (u16, &'static str),
) -> Step {
    Step { request, body, status, says: Says::Refusal(code) }
}

/// A verb that hotbay does not have.
const fn absent(request: &'static str, body: &'static str) -> Step {
    no(request, Some(body), (501, "api.not-implemented"))
}

const NO_VM: (u16, &str) = (404, "vm.not-created");
const NOT_RUNNING: (u16, &str) = (400, "vm.not-running");
const RUNNING: (u16, &str) = (400, "vm.running");
const PAUSED: (u16, &str) = (400, "vm.paused");

const NOWHERE: Option<&str> = Some(
    r#"{"id":"gpu0","pci_segment":0,"path":"/sys/bus/pci/devices/ffff:ff:1f.7","x_exclude_mmap_bars":[]}"#,
);
const DISK: Option<&str> = Some(
    r#"{"pci_segment":0,"path":"/nowhere/a.raw","readonly":false,"direct":false,"num_queues":1,"queue_size":128,"vhost_user":false,"disable_io_uring":false,"disable_aio":false,"backing_files":false,"sparse":true,"image_type":"Unknown","lock_granularity":"ByteRange"}"#,
);
const GPU: Option<&str> = Some(r#"{"id":"gpu0"}"#);
const CONFIG: Option<&str> = Some(
    "{\n  \"payload\": {\"kernel\": \"KERNEL\"},\n  \"cpus\": {\"boot_vcpus\": 2, \"max_vcpus\": 2},\n  \"memory\": {\"size\": 67108864}\n}\n",
);

const NET: Option<&str> = Some(
    r#"{"pci_segment":0,"tap":"tap0","mac":"02:00:00:00:00:01","num_queues":2,"queue_size":256,"vhost_user":false,"vhost_mode":"Client","offload_tso":true,"offload_ufo":true,"offload_csum":true}"#,
);

const BALLOON: Option<&str> =
    Some(r#"{"desired_vcpus":null,"desired_ram":null,"desired_balloon":4096}"#);
const VCPUS: Option<&str> =
    Some(r#"{"desired_vcpus":4,"desired_ram":null,"desired_balloon":null}"#);

/// ch-remote's always names a Unix socket.
const USERSPACE_VSOCK: Option<&str> = Some(r#"{"pci_segment":0,"cid":3,"socket":"/run/v.sock"}"#);

const USER_DEVICE: Option<&str> = Some(r#"{"id":"u0","pci_segment":0,"socket":"/nowhere/u.sock"}"#);

pub const SESSION: &[Step] = &[
    // There is no VM.
    json("GET vmm.ping", r#""features":["#),
    no("GET vm.info", None, NO_VM),
    no("GET vm.counters", None, NO_VM),
    no("PUT vm.boot", None, NO_VM),
    no("PUT vm.pause", None, NO_VM),
    no("PUT vm.resume", None, NO_VM),
    no("PUT vm.reboot", None, NO_VM),
    no("PUT vm.shutdown", None, NO_VM),
    no("PUT vm.delete", None, NO_VM),
    no("PUT vm.nmi", None, NO_VM),
    no("PUT vm.power-button", None, NO_VM),
    no("PUT vm.add-device", NOWHERE, NO_VM),
    no("PUT vm.add-disk", DISK, NO_VM),
    no("PUT vm.add-net", NET, NO_VM),
    no("PUT vm.add-vsock", Some(r#"{"pci_segment":0,"cid":3}"#), NO_VM),
    no("PUT vm.add-vsock", USERSPACE_VSOCK, (400, "api.not-offered")),
    no("PUT vm.add-user-device", USER_DEVICE, NO_VM),
    no("PUT vm.resize", BALLOON, NO_VM),
    no("PUT vm.resize", VCPUS, (400, "api.not-offered")),
    no("PUT vm.remove-device", GPU, NO_VM),
    // What hotbay does not have says so, VM or not.
    absent(
        "PUT vm.add-fs",
        r#"{"pci_segment":0,"tag":"data","socket":"/run/f.sock","num_queues":1,"queue_size":1024}"#,
    ),
    absent(
        "PUT vm.add-generic-vhost-user",
        r#"{"pci_segment":0,"socket":"/run/g.sock","queue_sizes":[1024],"device_type":26}"#,
    ),
    absent("PUT vm.add-pmem", r#"{"pci_segment":0,"file":"/p.img","discard_writes":false}"#),
    absent("PUT vm.add-vdpa", r#"{"pci_segment":0,"path":"/dev/vhost-vdpa-0","num_queues":1}"#),
    absent("PUT vm.resize-disk", r#"{"id":"disk0","desired_size":1073741824}"#),
    absent("PUT vm.resize-zone", r#"{"id":"zone0","desired_ram":1073741824}"#),
    absent("PUT vm.snapshot", r#"{"destination_url":"file:///s"}"#),
    absent(
        "PUT vm.restore",
        r#"{"source_url":"file:///s","prefault":false,"memory_restore_mode":"Copy","net_fds":null,"vfio_fds":null,"iommufd_fd":null,"resume":false,"zone_updates":[]}"#,
    ),
    absent("PUT vm.coredump", r#"{"destination_url":"file:///core"}"#),
    absent("PUT vm.send-migration", r#"{"destination_url":"unix:/run/m.sock","local":false}"#),
    absent("PUT vm.receive-migration", r#"{"receiver_url":"unix:/run/m.sock"}"#),
    // Created.
    no("PUT vm.create", Some("{\"payload\": \u{fc}}\n"), (400, "api.bad-body")),
    done("PUT vm.create", Some("{}\n")),
    no("PUT vm.boot", None, (400, "vm.bad-payload")),
    done("PUT vm.delete", None),
    done("PUT vm.create", CONFIG),
    no("PUT vm.create", CONFIG, (400, "vm.exists")),
    json("GET vm.info", r#""state":"Created""#),
    json("GET vm.counters", "{}"),
    done("PUT vm.add-device", NOWHERE),
    no("PUT vm.add-device", NOWHERE, (400, "device.id-taken")),
    done("PUT vm.remove-device", GPU),
    no("PUT vm.remove-device", GPU, (404, "device.not-found")),
    no("PUT vm.pause", None, NOT_RUNNING),
    no("PUT vm.resume", None, NOT_RUNNING),
    no("PUT vm.reboot", None, NOT_RUNNING),
    no("PUT vm.shutdown", None, NOT_RUNNING),
    no("PUT vm.nmi", None, NOT_RUNNING),
    no("PUT vm.power-button", None, NOT_RUNNING),
    // Running.
    done("PUT vm.boot", None),
    no("PUT vm.boot", None, RUNNING),
    no("PUT vm.resume", None, RUNNING),
    no("PUT vm.create", CONFIG, (400, "vm.exists")),
    json("GET vm.info", r#""state":"Running""#),
    json("GET vm.counters", "{"),
    no("PUT vm.add-device", NOWHERE, (404, "device.bad-path")),
    no("PUT vm.add-disk", DISK, (404, "device.bad-path")),
    no("PUT vm.add-user-device", USER_DEVICE, (400, "device.bad-request")),
    no("PUT vm.remove-device", GPU, (404, "device.not-found")),
    done("PUT vm.power-button", None),
    done("PUT vm.reboot", None),
    // Paused.
    done("PUT vm.pause", None),
    json("GET vm.info", r#""state":"Paused""#),
    no("PUT vm.pause", None, PAUSED),
    no("PUT vm.boot", None, PAUSED),
    no("PUT vm.remove-device", GPU, (404, "device.not-found")),
    done("PUT vm.power-button", None),
    done("PUT vm.resume", None),
    // This guest has no interrupt table, so it restarts, which a shutdown may overtake.
    done("PUT vm.nmi", None),
    done("PUT vm.shutdown", None),
    // Shut down.
    json("GET vm.info", r#""state":"Shutdown""#),
    no("PUT vm.shutdown", None, NOT_RUNNING),
    no("PUT vm.pause", None, NOT_RUNNING),
    no("PUT vm.nmi", None, NOT_RUNNING),
    done("PUT vm.boot", None),
    done("PUT vm.delete", None),
    no("GET vm.info", None, NO_VM),
    done("PUT vmm.shutdown", None),
];
