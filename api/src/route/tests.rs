//! Which bytes are which request.

use super::*;
use crate::schema::balloon::VmResize;
use crate::schema::device::{AddDevice, RemoveDevice};
use crate::schema::disk::{DiskConfig, ImageType};
use crate::schema::events::Follow;
use crate::schema::interrupts::TestInterrupt;
use crate::schema::net::NetConfig;
use crate::schema::user_device::UserDeviceConfig;
use crate::schema::vsock::VsockConfig;

fn refused(method: Method, path: &str, body: &str) -> Fault {
    parse(method, path, body.as_bytes()).unwrap_err()
}

fn user_device() -> UserDeviceConfig {
    let id = Some("u0".to_owned());
    UserDeviceConfig { socket: "/run/u.sock".into(), id, pci_segment: 0, pci_device_id: Some(5) }
}

/// A network card with everything that can be said of it.
fn card() -> NetConfig {
    NetConfig {
        tap: Some("tap0".to_owned()),
        fds: None,
        id: Some("net0".to_owned()),
        mac: Some("02:00:00:00:00:01".to_owned()),
        num_queues: 4,
        queue_size: 64,
        offload_tso: false,
        offload_ufo: true,
        offload_csum: true,
        x_vhost: true,
        pci_segment: 0,
        pci_device_id: Some(4),
    }
}

fn every_request() -> Vec<Request> {
    let device = AddDevice {
        path: "/sys/bus/pci/devices/0000:01:00.0".into(),
        id: Some("nic0".to_owned()),
        pci_segment: 0,
        pci_device_id: None,
        x_exclude_mmap_bars: vec![3],
        x_msix_noresize: true,
        x_exact_pending: false,
        x_map_threads: None,
    };
    let vsock = VsockConfig { cid: 3, id: None, pci_segment: 0, pci_device_id: Some(5) };
    let disk = DiskConfig {
        path: "/images/a.raw".into(),
        id: Some("disk0".to_owned()),
        readonly: true,
        direct: false,
        image_type: ImageType::Qcow2,
        num_queues: 2,
        queue_size: 256,
        serial: Some("a".to_owned()),
        pci_segment: 0,
        pci_device_id: Some(3),
    };
    let removal = RemoveDevice { id: "nic0".to_owned(), wait_ms: Some(5), force: None };
    vec![
        Request::Ping,
        Request::VmmShutdown,
        Request::Create(Box::default()),
        Request::Boot,
        Request::Info,
        Request::AddDevice(device.clone()),
        Request::AddDisk(disk),
        Request::AddNet(card()),
        Request::AddVsock(vsock),
        Request::AddUserDevice(user_device()),
        Request::Resize(VmResize { desired_balloon: Some(4096) }),
        Request::CheckDevice(device),
        Request::RemoveDevice(removal),
        Request::Shutdown,
        Request::Reboot,
        Request::Pause,
        Request::Resume,
        Request::Delete,
        Request::Nmi,
        Request::PowerButton,
        Request::Counters,
        Request::Events(Follow { since: Some(7), wait_ms: Some(1000) }),
        Request::Interrupts(Some("nic 0".to_owned())),
        Request::TestInterrupt(TestInterrupt { id: "nic0".to_owned(), vector: 3 }),
    ]
}

#[test]
fn what_is_written_is_what_is_read() {
    let requests = every_request();
    assert_eq!(requests.len(), ROUTES.len());
    for request in requests {
        let wire = write(&request).unwrap();

        let body = wire.body.unwrap_or_default();
        assert_eq!(parse(wire.method, &wire.path, body.as_bytes()), Ok(request));
    }
}

#[test]
fn verbs_of_cloud_hypervisor_that_are_missing_say_so() {
    let fault = refused(Method::Put, "/api/v1/vm.snapshot", "");

    assert_eq!(fault.status, Status::NotImplemented);
    let [sentence] = &fault.chain[..] else { panic!("{fault}") };
    assert!(sentence.starts_with("hotbay does not offer vm.snapshot; a guest"), "{fault}");
}

/// Cloud Hypervisor's endpoints (v53): what its own server routes.
const CLOUD_HYPERVISORS: [&str; 32] = [
    "vmm.ping",
    "vmm.shutdown",
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
    "vm.snapshot",
    "vm.balloon-stats",
];

#[test]
fn every_endpoint_of_cloud_hypervisor_is_there_or_says_what_is_instead() {
    for verb in CLOUD_HYPERVISORS {
        let path = format!("{PREFIX}{verb}");
        let method = allowed(&path).unwrap_or_else(|| panic!("{verb} leads nowhere"));
        let other = if method == Method::Get { Method::Put } else { Method::Get };

        assert_eq!(refused(other, &path, "").status, Status::MethodNotAllowed, "{verb}");
        if find(&path).is_none() {
            let fault = refused(method, &path, r#"{"what": "ever"}"#);
            let expected = (Status::NotImplemented, code::API_NOT_IMPLEMENTED);
            assert_eq!((fault.status, fault.code), expected, "{verb}");
        }
    }
}

#[test]
fn no_verb_is_both_offered_and_not() {
    let offered = |verb| ROUTES.iter().any(|route| route.verb == verb);
    assert!(ABSENT.iter().all(|absent| !offered(absent.verb)));
}

#[test]
fn unknown_paths_are_not_found() {
    for path in
        ["", "/", "/api/v1/", "/api/v1/vm.fly", "/api/v1/?x=1", "/api/v2/vm.info", "/vm.info"]
    {
        assert_eq!(refused(Method::Get, path, "").status, Status::NotFound, "{path}");
    }
}

#[test]
fn wrong_method_names_the_right_one() {
    let fault = refused(Method::Post, "/api/v1/vm.boot", "");

    assert_eq!(fault.status, Status::MethodNotAllowed);
    assert_eq!(fault.chain, ["vm.boot is asked with PUT, not POST"]);
    assert_eq!(allowed("/api/v1/vm.boot"), Some(Method::Put));
}

#[test]
fn parameters_are_read_and_may_be_left_out() {
    let of = |path| parse(Method::Get, path, b"");

    assert_eq!(of("/api/v1/vm.interrupts"), Ok(Request::Interrupts(None)));
    let one = Request::Interrupts(Some("nic0".to_owned()));
    assert_eq!(of("/api/v1/vm.interrupts?id=nic0"), Ok(one));
    assert_eq!(of("/api/v1/vm.info?"), Ok(Request::Info));
}

#[test]
fn wait_for_events_is_bounded_and_a_number() {
    let of = |query: &str| parse(Method::Get, &format!("/api/v1/vm.events{query}"), b"");

    assert_eq!(of(""), Ok(Request::Events(Follow::default())));
    let longest = Follow { since: None, wait_ms: Some(600_000) };
    assert_eq!(of("?wait_ms=600000"), Ok(Request::Events(longest)));
    for (query, why) in [
        ("?wait_ms=600001", "`wait_ms` is at most 600000; ask again after that"),
        ("?since=-1", "`since` is \"-1\", and no whole number up to 9223372036854775807"),
    ] {
        let fault = of(query).unwrap_err();
        assert_eq!((fault.code, fault.chain[1].as_str()), (code::API_BAD_QUERY, why));
    }
}

#[test]
fn parameter_that_a_verb_does_not_take_is_refused_by_name() {
    let of_one = refused(Method::Get, "/api/v1/vm.interrupts?ID=nic0", "");
    let of_none = refused(Method::Get, "/api/v1/vm.info?x=1", "");

    assert_eq!((of_one.status, of_one.code), (Status::BadRequest, code::API_BAD_QUERY));
    assert_eq!(of_one.chain[1], "unknown parameter `ID`, expected `id`");
    assert_eq!(of_none.chain[0], "cannot use the parameters of vm.info");
    assert_eq!(of_none.chain[1], "unknown parameter `x`, there are none");
}

#[test]
fn parameters_do_not_hide_the_verb() {
    let missing = refused(Method::Put, "/api/v1/vm.snapshot?x=1", "");
    let method = refused(Method::Put, "/api/v1/vm.interrupts?id=nic0", "");
    let body = refused(Method::Get, "/api/v1/vm.interrupts?id=nic0", "{}");

    assert_eq!(missing.status, Status::NotImplemented);
    assert_eq!(method.status, Status::MethodNotAllowed);
    assert_eq!(allowed("/api/v1/vm.interrupts?id=nic0"), Some(Method::Get));
    assert_eq!(body.chain[1], "it takes none");
}

#[test]
fn malformed_json_is_refused_with_line_and_column() {
    let fault = refused(Method::Put, "/api/v1/vm.add-device", "{\"path\":\n \"/x\"");

    assert_eq!(fault.status, Status::BadRequest);
    assert_eq!(fault.code, code::API_BAD_BODY);
    assert_eq!(fault.chain[1], "EOF while parsing an object at line 2 column 5");
}

#[test]
fn missing_field_is_named() {
    let fault = refused(Method::Put, "/api/v1/vm.add-device", "{}");

    assert!(fault.chain[1].contains("missing field `path`"), "{fault}");
}

#[test]
fn field_that_is_not_offered_has_its_own_code() {
    let fault = refused(Method::Put, "/api/v1/vm.add-device", r#"{"path":"/x","iommu":true}"#);

    assert_eq!(fault.code, code::API_NOT_OFFERED);
}

#[test]
fn empty_and_superfluous_bodies_are_refused() {
    let empty = refused(Method::Put, "/api/v1/vm.create", "");
    let superfluous = refused(Method::Put, "/api/v1/vm.boot", "{}");

    assert_eq!(empty.chain[1], "it is empty; JSON is expected");
    assert_eq!(superfluous.chain, ["cannot use the body of vm.boot", "it takes none"]);
}

#[test]
fn body_that_is_not_utf8_is_refused() {
    let fault = parse(Method::Put, "/api/v1/vm.remove-device", b"{\"id\":\"\xff\"}").unwrap_err();

    assert_eq!(fault.status, Status::BadRequest);
}
