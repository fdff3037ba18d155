//! Command line of `hotbayctl`: ch-remote's subcommands, and hotbay's own.

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use self::arguments::{Arguments, Verb};
use self::show::Show;
use super::{Line, Misuse, outcome};
use crate::client::{Client, ClientError};
use crate::route::Wire;

mod arguments;
mod foreign;
mod manual;
mod show;

/// One request to one server.
#[derive(Debug, PartialEq, Eq)]
pub struct Errand {
    socket: PathBuf,
    wire: Wire,
    show: Show,
}

/// Reads the arguments, the program's name first, and what they refer to.
///
/// # Errors
/// One sentence about what is wrong with them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Line<Errand>, Misuse> {
    let Arguments { api_socket, json, verb } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return outcome(&error),
    };
    match verb {
        Verb::Completions { shell } => Ok(Line::Say(manual::completions(shell))),
        Verb::Man { subcommand } => manual::page(subcommand.as_deref()).map(Line::Say),
        Verb::Ours(ours) => {
            let show = if json { Show::Json } else { ours.show() };
            errand(api_socket, show, ours.wire()?)
        }
        Verb::Theirs(theirs) => errand(api_socket, Show::Json, foreign::wire(theirs)?),
    }
}

fn errand(socket: Option<String>, show: Show, wire: Wire) -> Result<Line<Errand>, Misuse> {
    let socket = socket.ok_or_else(|| Misuse("whom to ask? give --api-socket PATH".to_owned()))?;
    let socket = socket.strip_prefix("path=").unwrap_or(&socket).into();
    Ok(Line::Do(Errand { socket, wire, show }))
}

impl Errand {
    /// Runs it; returns what to print, nothing for an answer without a body.
    ///
    /// # Errors
    /// The server's answer or the lack of one, a line for each cause.
    pub fn run(&self) -> Result<String, String> {
        match Client::new(&self.socket).send(&self.wire) {
            Ok(body) => Ok(body.map(|body| self.show.text(&body)).unwrap_or_default()),
            Err(error) => Err(explain(&error)),
        }
    }
}

fn explain(error: &ClientError) -> String {
    let mut lines = Vec::new();
    if let ClientError::Refused(refusal) = error {
        lines.clone_from(&refusal.chain);
        if let Some(first) = lines.first_mut() {
            first.push_str(&format!(" [{} {}]", refusal.status, refusal.code));
        }
    } else {
        let mut cause: Option<&dyn Error> = Some(error);
        while let Some(error) = cause {
            lines.push(error.to_string());
            cause = error.source();
        }
    }
    lines.join("\n  because ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;
    use crate::route;

    fn errand(words: &[&str]) -> Errand {
        let program = ["hotbayctl", "--api-socket", "path=/run/a.sock"];
        match parse(program.iter().chain(words).map(OsString::from)).unwrap() {
            Line::Do(errand) => errand,
            Line::Say(text) => panic!("{text}"),
        }
    }

    #[test]
    fn subcommands_are_ch_remotes_and_cover_every_verb() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let subcommands: [&[&str]; 24] = [
            &["ping"],
            &["shutdown-vmm"],
            &["create", path],
            &["boot"],
            &["info"],
            &["add-device", "path=/d"],
            &["add-disk", "path=/d"],
            &["add-net", "tap=t"],
            &["add-vsock", "cid=3"],
            &["add-user-device", "socket=/s"],
            &["resize", "--balloon", "64M"],
            &["check-device", "path=/d"],
            &["remove-device", "nic0"],
            &["shutdown"],
            &["reboot"],
            &["pause"],
            &["resume"],
            &["delete"],
            &["nmi"],
            &["power-button"],
            &["counters"],
            &["events"],
            &["interrupts"],
            &["test-interrupt", "nic0", "0"],
        ];

        assert_eq!(subcommands.len(), route::ROUTES.len());
        for (words, route) in subcommands.iter().zip(route::ROUTES) {
            let Errand { socket, wire, .. } = errand(words);

            assert_eq!(socket, Path::new("/run/a.sock"));
            assert_eq!(wire.path, format!("{}{}", route::PREFIX, route.verb));
            assert_eq!(wire.method, route.method);
        }
    }

    #[test]
    fn bodies_are_what_cloud_hypervisor_accepts() {
        let add = errand(&["add-device", "path=/sys/x,id=nic0"]).wire;
        let remove = errand(&["remove-device", "nic0"]).wire;

        let expected = r#"{"path":"/sys/x","id":"nic0","pci_segment":0,"x_exclude_mmap_bars":[]}"#;
        assert_eq!(add.body.unwrap(), expected);
        assert_eq!(remove.body.unwrap(), r#"{"id":"nic0"}"#);
    }

    #[test]
    fn configuration_goes_to_the_server_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{ \"anything\" }").unwrap();

        let wire = errand(&["create", file.path().to_str().unwrap()]).wire;

        assert_eq!(wire.body.unwrap(), "{ \"anything\" }");
    }

    /// Those that ch-remote has (v53).
    const CH_REMOTES: &str = "add-device add-disk add-fs add-generic-vhost-user add-net \
        add-pmem add-user-device add-vdpa add-vsock boot coredump counters create delete info nmi \
        pause ping power-button reboot receive-migration remove-device resize resize-disk \
        resize-zone restore resume send-migration shutdown shutdown-vmm snapshot";

    #[test]
    fn every_subcommand_of_ch_remote_is_there() {
        let command = Arguments::command();
        let missing: Vec<_> = CH_REMOTES
            .split_whitespace()
            .filter(|name| command.find_subcommand(name).is_none())
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn verbs_that_hotbay_lacks_are_sent_all_the_same() {
        let subcommands: [&[&str]; 10] = [
            &["add-fs", "tag=t"],
            &["add-generic-vhost-user", "socket=/s"],
            &["add-pmem", "file=/f"],
            &["add-vdpa", "path=/p"],
            &["coredump", "file:///c"],
            &["receive-migration", "unix:/s"],
            &["resize-disk", "--disk", "d", "--size", "1G"],
            &["resize-zone", "--id", "z", "--size", "1G"],
            &["restore", "source_url=file:///s"],
            &["send-migration", "unix:/s"],
        ];
        let absent = route::ABSENT.iter().filter(|absent| absent.verb.starts_with("vm."));
        let absent =
            absent.filter(|absent| !["vm.balloon-stats", "vm.snapshot"].contains(&absent.verb));

        for (words, absent) in subcommands.iter().zip(absent) {
            let wire = errand(words).wire;

            assert_eq!(wire.path, format!("{}{}", route::PREFIX, absent.verb));
            assert_eq!(wire.method, absent.method);
            assert!(wire.body.is_some());
        }
        let snapshot = errand(&["snapshot", "file:///s"]).wire;
        assert_eq!(snapshot.body.unwrap(), r#"{"destination_url":"file:///s"}"#);
    }

    #[test]
    fn answers_are_tables_unless_json_is_asked_for() {
        let table = errand(&["interrupts", "nic0"]);
        let json = errand(&["interrupts", "--json"]);

        assert_eq!(table.wire.path, "/api/v1/vm.interrupts?id=nic0");
        assert_eq!(table.show.text("{}"), "There is no device.");
        assert_eq!(json.wire.path, "/api/v1/vm.interrupts");
        assert_eq!(json.show.text("{}"), "{}");
    }

    #[test]
    fn words_about_itself_need_no_socket_and_others_do() {
        let line = |words: &[&str]| {
            parse(["hotbayctl"].iter().chain(words).map(OsString::from)).map_err(|e| e.to_string())
        };

        assert!(matches!(line(&["completions", "zsh"]), Ok(Line::Say(_))));
        assert!(matches!(line(&["man"]), Ok(Line::Say(_))));
        assert_eq!(line(&["ping"]), Err("whom to ask? give --api-socket PATH".to_owned()));
    }

    #[test]
    fn missing_socket_is_explained() {
        let error =
            Errand { socket: "/nonexistent".into(), ..errand(&["ping"]) }.run().unwrap_err();

        assert!(
            error.starts_with("cannot connect to /nonexistent\n  because No such file"),
            "{error}"
        );
    }
}
