//! ch-remote's subcommands for verbs that hotbay does not have. They are sent as they
//! are understood elsewhere, and it is the server who says what to do instead.

use clap::Subcommand;
use serde_json::{Map, Value};

use super::super::Misuse;
use super::super::options::{any, bytes};
use crate::route::Wire;

/// Verbs that hotbay does not have.
#[derive(Debug, Subcommand)]
pub(super) enum Theirs {
    /// Add a virtio-fs device (not offered by hotbay)
    AddFs {
        /// tag=TAG,socket=PATH,id=NAME,...
        fs_config: String,
    },
    /// Add a generic vhost-user device (not offered by hotbay)
    AddGenericVhostUser {
        /// socket=PATH,virtio_id=N,queue_sizes=[N,...],id=NAME,...
        generic_vhost_user_config: String,
    },
    /// Add a persistent memory device (not offered by hotbay)
    AddPmem {
        /// file=PATH,size=BYTES,id=NAME,...
        pmem_config: String,
    },
    /// Add a vDPA device (not offered by hotbay)
    AddVdpa {
        /// path=/dev/vhost-vdpa-N,id=NAME,...
        vdpa_config: String,
    },
    /// Dump the guest's memory (not offered by hotbay)
    Coredump {
        /// Where to: file:///PATH
        coredump_config: String,
    },
    /// Receive a VM from another host (not offered by hotbay)
    ReceiveMigration {
        /// Where from: a URL, or receiver_url=URL,...
        receive_migration_config: String,
    },
    /// Resize a disk (not offered by hotbay)
    ResizeDisk {
        /// The disk's id
        #[arg(long)]
        disk: String,
        /// Bytes, with an optional suffix
        #[arg(long, value_name = "BYTES")]
        size: String,
    },
    /// Resize a memory zone (not offered by hotbay)
    ResizeZone {
        /// The zone's id
        #[arg(long)]
        id: String,
        /// Bytes, with an optional suffix
        #[arg(long, value_name = "BYTES")]
        size: String,
    },
    /// Restore a VM from a snapshot (not offered by hotbay)
    Restore {
        /// source_url=file:///PATH,prefault=on|off,...
        restore_config: String,
    },
    /// Send the VM to another host (not offered by hotbay)
    SendMigration {
        /// Where to: a URL, or destination_url=URL,...
        send_migration_config: String,
    },
    /// Take a snapshot of the VM (not offered by hotbay)
    Snapshot {
        /// Where to: file:///PATH
        snapshot_config: String,
    },
}

/// The request of such a verb.
pub(super) fn wire(verb: Theirs) -> Result<Wire, Misuse> {
    let (verb, body) = match verb {
        Theirs::AddFs { fs_config } => ("vm.add-fs", any("add-fs", &fs_config)?),
        Theirs::AddGenericVhostUser { generic_vhost_user_config: text } => {
            ("vm.add-generic-vhost-user", any("add-generic-vhost-user", &text)?)
        }
        Theirs::AddPmem { pmem_config } => ("vm.add-pmem", any("add-pmem", &pmem_config)?),
        Theirs::AddVdpa { vdpa_config } => ("vm.add-vdpa", any("add-vdpa", &vdpa_config)?),
        Theirs::Coredump { coredump_config: url } => {
            ("vm.coredump", url_as("destination_url", url))
        }
        Theirs::Snapshot { snapshot_config: url } => {
            ("vm.snapshot", url_as("destination_url", url))
        }
        Theirs::Restore { restore_config } => ("vm.restore", any("restore", &restore_config)?),
        Theirs::ReceiveMigration { receive_migration_config: text } => {
            ("vm.receive-migration", url_or_more(("receive-migration", "receiver_url"), text)?)
        }
        Theirs::SendMigration { send_migration_config: text } => {
            ("vm.send-migration", url_or_more(("send-migration", "destination_url"), text)?)
        }
        Theirs::ResizeDisk { disk, size } => {
            let size = bytes("resize-disk --size", &size)?;
            ("vm.resize-disk", fields([("id", disk.into()), ("desired_size", size.into())]))
        }
        Theirs::ResizeZone { id, size } => {
            let size = bytes("resize-zone --size", &size)?;
            ("vm.resize-zone", fields([("id", id.into()), ("desired_ram", size.into())]))
        }
    };
    Ok(Wire::absent(verb, Value::Object(body).to_string()))
}

/// `key=value` pairs, or a URL alone.
fn url_or_more((option, name): (&str, &str), text: String) -> Result<Map<String, Value>, Misuse> {
    if text.starts_with(&format!("{name}=")) { any(option, &text) } else { Ok(url_as(name, text)) }
}

fn url_as(name: &str, url: String) -> Map<String, Value> {
    fields([(name, url.into())])
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(verb: Theirs) -> Value {
        serde_json::from_str(&wire(verb).unwrap().body.unwrap()).unwrap()
    }

    #[test]
    fn options_become_json_as_they_look() {
        let config = "tag=fs,writable=on,num_queues=2,queue_sizes=[64,128],socket=\"/a,b\"";
        let expected = json!({"tag": "fs", "writable": true, "num_queues": 2,
            "queue_sizes": [64, 128], "socket": "/a,b"});

        assert_eq!(body(Theirs::AddFs { fs_config: config.to_owned() }), expected);
    }

    #[test]
    fn migration_takes_a_url_or_options() {
        let url =
            |text: &str| body(Theirs::SendMigration { send_migration_config: text.to_owned() });

        assert_eq!(url("tcp:a:1"), json!({"destination_url": "tcp:a:1"}));
        let more = json!({"destination_url": "unix:/s", "local": true});
        assert_eq!(url("destination_url=unix:/s,local=on"), more);
    }

    #[test]
    fn sizes_have_suffixes() {
        let resize = Theirs::ResizeZone { id: "z".to_owned(), size: "2G".to_owned() };

        assert_eq!(body(resize), json!({"id": "z", "desired_ram": 2_u64 << 30}));
        let wrong = Theirs::ResizeZone { id: "z".to_owned(), size: "much".to_owned() };
        assert!(wire(wrong).unwrap_err().to_string().contains("--size much"));
    }
}
