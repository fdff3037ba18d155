//! Bodies as Cloud Hypervisor's clients send them, and as nobody should.

use serde_json::{Value, json};

use super::balloon::VmResize;
use super::console::{ConsoleConfig, ConsoleMode};
use super::device::{AddDevice, RemoveDevice};
use super::disk::DiskConfig;
use super::known::Table;
use super::machine::VmConfig;
use super::net::NetConfig;
use super::user_device::UserDeviceConfig;
use super::vsock::VsockConfig;
use super::{
    balloon, console, cpus, device, disk, machine, memory, net, payload, platform, rng,
    user_device, vsock,
};

fn refusal<T: serde::de::DeserializeOwned>(body: &str) -> String {
    serde_json::from_str::<T>(body).err().expect("refused").to_string()
}

#[test]
fn ch_remotes_add_device_passes() {
    let body = r#"{"id":"gpu0","pci_segment":0,"path":"/sys/bus/pci/devices/0000:01:00.0","x_exclude_mmap_bars":[]}"#;

    let device: AddDevice = serde_json::from_str(body).unwrap();

    assert_eq!(device.id.as_deref(), Some("gpu0"));
    assert_eq!(device.path.to_str(), Some("/sys/bus/pci/devices/0000:01:00.0"));
}

#[test]
fn ch_remotes_add_net_passes() {
    let body = r#"{"pci_segment":0,"tap":"tap0","mac":"02:00:00:00:00:01","num_queues":2,"queue_size":256,"vhost_user":false,"vhost_mode":"Client","offload_tso":true,"offload_ufo":true,"offload_csum":true}"#;

    let net: NetConfig = serde_json::from_str(body).unwrap();

    assert_eq!(net, serde_json::from_str(r#"{"tap":"tap0","mac":"02:00:00:00:00:01"}"#).unwrap());
    assert_eq!((net.num_queues, net.queue_size, net.offload_tso), (2, 256, true));
}

#[test]
fn ch_remotes_add_user_device_passes() {
    let body = r#"{"id":"u0","pci_segment":0,"socket":"/run/u.sock"}"#;

    let device: UserDeviceConfig = serde_json::from_str(body).unwrap();

    assert_eq!((device.socket.to_str(), device.id.as_deref()), (Some("/run/u.sock"), Some("u0")));
}

#[test]
fn ch_remotes_add_disk_passes() {
    let body = r#"{"pci_segment":0,"path":"/a.raw","readonly":false,"direct":false,"num_queues":1,"queue_size":128,"vhost_user":false,"disable_io_uring":false,"disable_aio":false,"backing_files":false,"sparse":true,"image_type":"Unknown","lock_granularity":"ByteRange"}"#;

    let disk: DiskConfig = serde_json::from_str(body).unwrap();

    assert_eq!(disk, serde_json::from_str(r#"{"path":"/a.raw"}"#).unwrap());
    assert_eq!((disk.num_queues, disk.queue_size, disk.id), (1, 128, None));
}

#[test]
fn vsock_of_a_unix_socket_is_refused_with_what_there_is_instead() {
    let plain: VsockConfig = serde_json::from_str(r#"{"pci_segment":0,"cid":3}"#).unwrap();
    let refused = refusal::<VmConfig>(r#"{"vsock":{"cid":3,"socket":"/run/v.sock"}}"#);

    assert_eq!((plain.cid, plain.id), (3, None));
    assert!(refused.contains("vsock: `socket`: hotbay does not offer this yet"), "{refused}");
    assert!(refused.contains("AF_VSOCK"), "{refused}");
}

#[test]
fn ch_remotes_resize_is_for_the_balloon_and_says_so() {
    let body = r#"{"desired_vcpus":null,"desired_ram":null,"desired_balloon":4096}"#;
    let resize: VmResize = serde_json::from_str(body).unwrap();
    let vcpus = refusal::<VmResize>(r#"{"desired_vcpus":4}"#);

    assert_eq!(resize.desired_balloon, Some(4096));
    assert!(vcpus.contains("`desired_vcpus`: hotbay does not offer this yet"), "{vcpus}");
    assert!(vcpus.contains("shut the VM down"), "{vcpus}");
}

#[test]
fn numbers_that_the_contract_has_no_room_for_are_refused_by_name() {
    let refused = [
        ("size", refusal::<VmConfig>(r#"{"memory":{"size":9223372036854775808}}"#)),
        (
            "hugepage_size",
            refusal::<VmConfig>(r#"{"memory":{"size":4096,"hugepage_size":9223372036854775808}}"#),
        ),
        ("size", refusal::<VmConfig>(r#"{"balloon":{"size":18446744073709551615}}"#)),
        ("desired_balloon", refusal::<VmResize>(r#"{"desired_balloon":9223372036854775808}"#)),
        ("wait_ms", refusal::<RemoveDevice>(r#"{"id":"a","wait_ms":9223372036854775808}"#)),
    ];
    for (name, refused) in refused {
        let range = "a whole number up to 9223372036854775807";
        assert!(refused.contains(&format!("{name}: ")) && refused.contains(range), "{refused}");
    }

    let largest: RemoveDevice =
        serde_json::from_str(r#"{"id":"a","wait_ms":9223372036854775807}"#).unwrap();
    let null: RemoveDevice = serde_json::from_str(r#"{"id":"a","wait_ms":null}"#).unwrap();
    assert_eq!((largest.wait_ms, null.wait_ms), (Some(i64::MAX as u64), None));
}

#[test]
fn whole_configuration_at_its_defaults_passes() {
    let mut body = json!({
        "payload": {"kernel": "/vmlinuz", "cmdline": "console=ttyS0"},
        "cpus": {"boot_vcpus": 2, "max_vcpus": 4},
        "memory": {"size": 1 << 30},
        "platform": {"num_pci_segments": 2},
        "serial": {"mode": "File", "file": "/tmp/log"},
        "console": {"mode": "Off"},
        "disks": [{"path": "/a.raw"}],
        "net": [{"tap": "tap0"}],
        "rng": {"src": "/dev/urandom"},
        "vsock": {"cid": 3},
        "balloon": {"size": 0},
        "devices": [{"path": "/sys/bus/pci/devices/0000:01:00.0"}],
        "user_devices": [{"socket": "/run/u.sock"}],
    });
    let tables: [(&str, Table); 13] = [
        ("", machine::KNOWN),
        ("/payload", payload::KNOWN),
        ("/cpus", cpus::KNOWN),
        ("/memory", memory::KNOWN),
        ("/platform", platform::KNOWN),
        ("/console", console::KNOWN),
        ("/disks/0", disk::KNOWN),
        ("/net/0", net::KNOWN),
        ("/rng", rng::KNOWN),
        ("/vsock", vsock::KNOWN),
        ("/balloon", balloon::KNOWN),
        ("/devices/0", device::ADD_KNOWN),
        ("/user_devices/0", user_device::KNOWN),
    ];
    for (pointer, table) in tables {
        let object = body.pointer_mut(pointer).and_then(Value::as_object_mut).unwrap();
        for (name, default) in table {
            object.insert((*name).to_owned(), serde_json::from_str(default).unwrap());
        }
    }

    let config: VmConfig = serde_json::from_str(&body.to_string()).unwrap();

    assert_eq!(config.cpus.max_vcpus, 4);
    assert_eq!(config.serial.mode, ConsoleMode::File);
    assert_eq!(config.devices.map(|devices| devices.len()), Some(1));
}

#[test]
fn absent_parts_have_cloud_hypervisors_defaults() {
    let config: VmConfig = serde_json::from_str(r#"{"payload":{"kernel":"/k"}}"#).unwrap();

    assert_eq!(config.memory.size, 512 << 20);
    assert_eq!(config.cpus.boot_vcpus, 1);
    assert_eq!(config.serial, ConsoleConfig::of(ConsoleMode::Null));
}

#[test]
fn configuration_survives_the_way_out_and_in() {
    let body = r#"{"payload":{"kernel":"/k"},"devices":[{"path":"/d","id":"n"}],"serial":{"mode":"Socket","socket":"/s"}}"#;
    let config: VmConfig = serde_json::from_str(body).unwrap();

    let again: VmConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();

    assert_eq!(again, config);
}

#[test]
fn misspelt_field_is_refused_by_name_line_and_column() {
    let text = refusal::<VmConfig>("{\"payload\":{\"kernel\":\"/k\"},\n \"memroy\":{}}");

    assert!(text.starts_with("unknown field `memroy`"), "{text}");
    assert!(text.ends_with("at line 2 column 9"), "{text}");
}

#[test]
fn value_of_the_wrong_type_is_refused_with_its_path() {
    let text = refusal::<VmConfig>(r#"{"memory":{"size":"1G"}}"#);

    assert_eq!(
        text,
        r#"memory: size: invalid type: string "1G", expected u64 at line 1 column 22"#
    );
}

#[test]
fn field_that_hotbay_does_not_act_on_is_refused_by_name() {
    let iommu = refusal::<AddDevice>(r#"{"path":"/d","iommu":true}"#);
    let nets = refusal::<VmConfig>(r#"{"net":[{"tap":"tap0","vhost_user":true}]}"#);
    let vhost = refusal::<VmConfig>(r#"{"disks":[{"path":"/d","vhost_user":true}]}"#);
    let uuid = refusal::<VmConfig>(r#"{"platform":{"uuid":"x"}}"#);
    let amx =
        refusal::<VmConfig>(r#"{"cpus":{"boot_vcpus":1,"max_vcpus":1,"features":{"amx":true}}}"#);

    assert!(iommu.contains("`iommu`: hotbay does not offer this yet"), "{iommu}");
    assert!(iommu.contains("at its default false at line 1 column"), "{iommu}");
    assert!(nets.contains("`vhost_user`: hotbay does not offer this yet; leave it out"), "{nets}");
    assert!(vhost.contains("`vhost_user`: hotbay does not offer this yet"), "{vhost}");
    assert!(uuid.contains("platform: `uuid`"), "{uuid}");
    assert!(amx.contains("`features.amx`"), "{amx}");
}

#[test]
fn unknown_field_inside_a_known_one_is_refused() {
    let text = refusal::<VmConfig>(r#"{"platform":{"num_pci_segment":1}}"#);

    assert!(text.contains("platform: unknown field `num_pci_segment`"), "{text}");
}

#[test]
fn array_in_place_of_an_object_is_refused() {
    let text = refusal::<RemoveDevice>(r#"["gpu0"]"#);

    assert!(text.contains("expected an object"), "{text}");
}

#[test]
fn same_field_twice_is_refused() {
    let text = refusal::<RemoveDevice>(r#"{"id":"a","id":"b"}"#);

    assert!(text.contains("duplicate field `id`"), "{text}");
}
