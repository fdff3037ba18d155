//! A value of every type of the API, with everything in it that may be left out.

use std::time::Duration;

use api::descriptors::Fds;
use api::schema::balloon::{BalloonConfig, VmResize};
use api::schema::console::{ConsoleConfig, ConsoleMode};
use api::schema::cpus::CpusConfig;
use api::schema::device::{AddDevice, PciDeviceInfo, RemoveDevice};
use api::schema::disk::{DiskConfig, ImageType};
use api::schema::events::{Event, Events};
use api::schema::info::{
    AddPhase, AddProgress, DeviceNode, DeviceReset, DeviceState, PciBarType, ResetResult, Resource,
    VmInfo, VmState, VmmPing,
};
use api::schema::interrupts::{
    Backend, DeviceInterrupts, GuestVector, HostError, InterruptMode, LineState, MsiState,
    MsixState, TestInterrupt, VectorCounts, VectorDelivery, VectorState,
};
use api::schema::landlock::{LandlockAccess, LandlockConfig};
use api::schema::machine::VmConfig;
use api::schema::memory::MemoryConfig;
use api::schema::net::NetConfig;
use api::schema::payload::PayloadConfig;
use api::schema::platform::PlatformConfig;
use api::schema::rng::RngConfig;
use api::schema::user_device::UserDeviceConfig;
use api::schema::vsock::VsockConfig;
use serde::Serialize;
use serde_json::{Value, to_value};

/// Each schema's name, and a value of it.
pub fn all() -> Vec<(&'static str, Value)> {
    let config = full_config();
    let node = full_node();
    let Resource::PciBar { .. } = &node.resources[0];
    let interrupts = full_interrupts();
    let events = full_events();
    let vector = &interrupts.vectors[0];
    let bar = to_value(&node.resources[0]).unwrap()["PciBar"].take();
    let info = VmInfo {
        config: config.clone(),
        state: VmState::Running,
        memory_actual_size: 1,
        memory_warm_size: Some(1),
        device_tree: Some([("nic0".to_owned(), node.clone())].into()),
    };
    vec![
        ("VmConfig", value(&config)),
        ("PayloadConfig", value(&config.payload)),
        ("CpusConfig", value(&config.cpus)),
        ("PlatformConfig", value(&config.platform)),
        ("MemoryConfig", value(&config.memory)),
        ("ConsoleConfig", value(&config.serial)),
        ("AddDevice", value(&config.devices.as_ref().unwrap()[0])),
        ("RngConfig", value(&config.rng)),
        ("VsockConfig", value(&config.vsock)),
        ("BalloonConfig", value(&config.balloon)),
        ("VmResize", value(&VmResize { desired_balloon: Some(1) })),
        ("DiskConfig", value(&config.disks.as_ref().unwrap()[0])),
        ("NetConfig", value(&config.net.as_ref().unwrap()[0])),
        ("UserDeviceConfig", value(&config.user_devices.as_ref().unwrap()[0])),
        ("LandlockConfig", value(&config.landlock_rules.as_ref().unwrap()[0])),
        (
            "RemoveDevice",
            value(&RemoveDevice { id: "a".to_owned(), wait_ms: Some(1), force: Some(true) }),
        ),
        ("PciDeviceInfo", value(&PciDeviceInfo { id: "a".to_owned(), bdf: "b".to_owned() })),
        ("VmInfo", value(&info)),
        ("DeviceNode", value(&node)),
        ("DeviceReset", value(&node.reset)),
        ("AddProgress", value(&node.progress)),
        ("Resource", value(&node.resources[0])),
        ("PciBar", bar),
        ("VmmPing", value(&ping())),
        ("Events", value(&events)),
        ("Event", value(&events.events[0])),
        ("DeviceInterrupts", value(&interrupts)),
        ("HostError", value(&interrupts.host_error)),
        ("MsixState", value(&interrupts.msix)),
        ("MsiState", value(&interrupts.msi)),
        ("LineState", value(&interrupts.line)),
        ("VectorState", value(&vector)),
        ("GuestVector", value(&vector.guest)),
        ("VectorDelivery", value(&vector.delivery)),
        ("VectorCounts", value(&vector.counts)),
        ("TestInterrupt", value(&TestInterrupt { id: "a".to_owned(), vector: 0 })),
    ]
}

fn value(body: &impl Serialize) -> Value {
    to_value(body).unwrap()
}

fn ping() -> VmmPing {
    VmmPing { build_version: String::new(), version: String::new(), pid: 1, features: Vec::new() }
}

fn full_user_device() -> UserDeviceConfig {
    let id = Some("a".to_owned());
    UserDeviceConfig { socket: "/x".into(), id, pci_segment: 0, pci_device_id: Some(1) }
}

/// Every optional field is there, or the comparison would miss it.
fn card() -> NetConfig {
    NetConfig {
        tap: Some("a".to_owned()),
        fds: Some(Fds::Promised(1)),
        id: Some("a".to_owned()),
        mac: Some("a".to_owned()),
        num_queues: 2,
        queue_size: 256,
        offload_tso: true,
        offload_ufo: true,
        offload_csum: true,
        x_vhost: false,
        pci_segment: 0,
        pci_device_id: Some(1),
    }
}

fn balloon() -> BalloonConfig {
    BalloonConfig {
        size: 1,
        deflate_on_oom: true,
        free_page_reporting: true,
        id: Some("a".to_owned()),
        pci_segment: 0,
        pci_device_id: Some(1),
    }
}

fn sockets() -> VsockConfig {
    VsockConfig { cid: 3, id: Some("a".to_owned()), pci_segment: 0, pci_device_id: Some(1) }
}

fn full_config() -> VmConfig {
    let path = || Some("/x".into());
    let serial = ConsoleConfig { mode: ConsoleMode::File, file: path(), socket: path() };
    VmConfig {
        payload: Some(PayloadConfig {
            kernel: path(),
            cmdline: Some(String::new()),
            initramfs: path(),
        }),
        cpus: CpusConfig::default(),
        memory: MemoryConfig { hugepage_size: Some(1), ..MemoryConfig::default() },
        serial: serial.clone(),
        console: serial,
        platform: Some(PlatformConfig::default()),
        disks: Some(vec![DiskConfig {
            path: "/x".into(),
            id: Some("a".to_owned()),
            readonly: true,
            direct: true,
            image_type: ImageType::Raw,
            num_queues: 1,
            queue_size: 128,
            serial: Some("a".to_owned()),
            pci_segment: 0,
            pci_device_id: Some(1),
        }]),
        net: Some(vec![card()]),
        rng: Some(RngConfig {
            src: "/x".into(),
            id: Some("a".to_owned()),
            pci_segment: 0,
            pci_device_id: Some(1),
        }),
        vsock: Some(sockets()),
        user_devices: Some(vec![full_user_device()]),
        balloon: Some(balloon()),
        devices: Some(vec![AddDevice {
            path: "/x".into(),
            id: Some("a".to_owned()),
            pci_segment: 0,
            pci_device_id: Some(1),
            x_exclude_mmap_bars: vec![0],
            x_msix_noresize: true,
            x_exact_pending: true,
            x_map_threads: Some(1),
        }]),
        landlock_enable: true,
        landlock_rules: Some(vec![LandlockConfig {
            path: "/x".into(),
            access: LandlockAccess::Read,
        }]),
    }
}

fn full_node() -> DeviceNode {
    let bar =
        Resource::PciBar { index: 0, base: 0, size: 0, type_: PciBarType::Io, prefetchable: false };
    DeviceNode {
        id: "a".to_owned(),
        resources: vec![bar],
        parent: None,
        children: Vec::new(),
        pci_bdf: None,
        state: Some(DeviceState::Attached),
        since_ms: Some(0),
        wanted_back_ms: Some(0),
        host_errors: Some(1),
        failure: Some("a".to_owned()),
        reset: Some(DeviceReset {
            method: "a".to_owned(),
            reason: Some("b".to_owned()),
            last: Some(ResetResult::Done),
            error: Some("c".to_owned()),
            took_ms: Some(0),
        }),
        progress: Some(AddProgress { phase: AddPhase::Mapping, bytes_done: 0, bytes_total: 0 }),
    }
}

fn full_events() -> Events {
    let event = Event {
        number: 1,
        timestamp: Duration::new(1, 2),
        source: "vm".to_owned(),
        event: "a".to_owned(),
        properties: Some([("b".to_owned(), "c".to_owned())].into()),
    };
    Events { events: vec![event], last: 1, lost: 0 }
}

fn full_interrupts() -> DeviceInterrupts {
    let host_error = Some(HostError { errno: "a".to_owned(), message: "b".to_owned() });
    let vector = VectorState {
        vector: 0,
        guest: GuestVector { address: 0, data: 0, masked: true, pending: false, live: false },
        delivery: VectorDelivery { backend: Backend::Detached, gsi: None, wired: false },
        counts: VectorCounts { relayed: 0, host: None },
        host_error: host_error.clone(),
    };
    DeviceInterrupts {
        mode: InterruptMode::None,
        host_mode: InterruptMode::None,
        host_error,
        msix: Some(MsixState { table_size: 1, enabled: false, function_masked: false }),
        msi: Some(MsiState { capable: 1, in_use: 0 }),
        line: Some(LineState { gsi: 16, allowed: false, wired: false, host: None }),
        vectors: vec![vector],
    }
}
