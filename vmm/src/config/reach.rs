//! Which paths of the host a VM needs, for whoever closes all others.

use std::io::{IsTerminal, stdout};

use api::schema::landlock::{LandlockAccess, LandlockConfig};

use super::wanted::Wanted;
use super::{SerialSpec, SpecError, VmSpec};
use crate::sandbox::{Grant, Purpose};

/// The terminal that the process was started on, opened once more.
const TERMINAL: &str = "/proc/self/fd/1";

/// The rules of a request, if they are asked for.
pub(super) fn landlock(
    enable: bool,
    rules: Vec<LandlockConfig>,
) -> Result<Option<Vec<Grant>>, SpecError> {
    if !enable && !rules.is_empty() {
        return Err(SpecError::RulesWithoutLandlock);
    }
    Ok(enable.then(|| grants(rules)))
}

/// Rules as the paths that they grant.
pub fn grants(rules: Vec<LandlockConfig>) -> Vec<Grant> {
    let grant = |LandlockConfig { path, access }| {
        let purpose = match access {
            LandlockAccess::Read => Purpose::Read,
            LandlockAccess::Write => Purpose::Write,
            LandlockAccess::ReadWrite => Purpose::ReadWrite,
        };
        Grant::new("the path of a rule", path, purpose)
    };
    rules.into_iter().map(grant).collect()
}

impl VmSpec {
    /// Paths that its boots open, besides those that hotbay always needs. Functions of
    /// the host's are among the latter.
    pub fn paths(&self) -> Vec<Grant> {
        let mut paths = Vec::new();
        if let Some(payload) = &self.payload {
            paths.push(Grant::new("the kernel", &payload.kernel, Purpose::Read));
            let initramfs = payload.initramfs.as_ref();
            paths.extend(initramfs.map(|path| Grant::new("the initramfs", path, Purpose::Read)));
        }
        paths.extend(ends(
            &self.serial,
            ["the serial port's file", "the folder of the serial port's socket"],
        ));
        paths.extend(ends(
            &self.console,
            ["the console's file", "the folder of the console's socket"],
        ));
        paths.extend(self.devices.iter().flat_map(Wanted::grants));
        paths
    }

    /// Whether it has functions of the host's.
    pub fn has_functions(&self) -> bool {
        self.devices.iter().any(|wanted| matches!(wanted, Wanted::Host(_)))
    }
}

/// What a port's other end opens; `names` are those of a file and of a socket.
fn ends(port: &SerialSpec, [file, folder]: [&'static str; 2]) -> Vec<Grant> {
    match port {
        SerialSpec::Off | SerialSpec::Null => Vec::new(),
        SerialSpec::Tty if stdout().is_terminal() => {
            vec![Grant::optional("the terminal", TERMINAL, Purpose::Write)]
        }
        SerialSpec::Tty => Vec::new(),
        SerialSpec::Pty => ["/dev/ptmx", "/dev/pts"]
            .map(|path| Grant::new("pseudo-terminals", path, Purpose::Device))
            .into(),
        SerialSpec::File(path) => vec![Grant::new(file, path, Purpose::Overwrite)],
        SerialSpec::Socket(path) => vec![Grant::folder(folder, path, Purpose::Sockets)],
    }
}

#[cfg(test)]
mod tests {
    use api::schema::machine::VmConfig;
    use serde_json::json;

    use super::*;

    fn spec(body: serde_json::Value) -> Result<VmSpec, SpecError> {
        serde_json::from_value::<VmConfig>(body).unwrap().try_into()
    }

    #[test]
    fn everything_that_a_boot_opens_is_named() {
        let spec = spec(json!({
            "payload": {"kernel": "/k", "initramfs": "/i"},
            "serial": {"mode": "Socket", "socket": "/run/vm/serial"},
            "console": {"mode": "File", "file": "/run/console"},
            "disks": [{"path": "/a.raw"}, {"path": "/b.raw", "readonly": true}],
            "devices": [{"path": "/sys/bus/pci/devices/0000:01:00.0"}],
        }))
        .unwrap();

        let paths = spec.paths();

        let places: Vec<_> = paths.iter().map(|g| (g.path.to_str().unwrap(), g.purpose)).collect();
        assert_eq!(
            places,
            [
                ("/k", Purpose::Read),
                ("/i", Purpose::Read),
                ("/run/vm", Purpose::Sockets),
                ("/run/console", Purpose::Overwrite),
                ("/a.raw", Purpose::Device),
                ("/b.raw", Purpose::Read),
            ]
        );
    }

    #[test]
    fn rules_count_only_with_landlock() {
        let rules = json!([{"path": "/images", "access": "rw"}]);

        let without = spec(json!({"landlock_rules": rules}));
        let with = spec(json!({"landlock_rules": rules, "landlock_enable": true})).unwrap();

        assert_eq!(without.err(), Some(SpecError::RulesWithoutLandlock));
        let granted = with.landlock.unwrap();
        assert_eq!(granted[0].purpose, Purpose::ReadWrite);
        assert_eq!(spec(json!({})).unwrap().landlock, None);
    }
}
