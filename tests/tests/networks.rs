//! Network cards of ours, on taps of the host: at boot and plugged in later, handed over, in use in both
//! directions, refused, unplugged, and left alone when their tap goes.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use api::client::Client;
use api::descriptors::Fds;
use api::request::Request;
use api::schema::interrupts::InterruptMode;
use api::schema::net::NetConfig;
use serde_json::json;
use tempfile::TempDir;
use tests::artifacts::binary;
use tests::error::{Doing, Error, ensure, same};
use tests::host::run;
use tests::wait::{Look, until};
use tests::{Options, Result, Vm, in_lab};

const MAC: &str = "02:68:6f:74:62:01";
/// Bytes that go each way.
const MUCH: usize = 2 << 20;
const CONNECTION_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn card_carries_data_both_ways_beside_one_that_comes_and_goes_and_both_survive_a_reboot() {
    in_lab(|host| {
        let (lan, more) = (Tap::new("hb0", 70)?, Tap::with_several_queues("hb1", 71)?);
        let mut vm = with_card(&lan, "")?;
        lan.join(&mut vm)?;
        let before = vm.settled_descriptors(host)?;
        lan.carries(&mut vm)?;

        for _ in 0..2 {
            let card = json!({ "tap": more.name, "id": "more", "num_queues": 6 });
            vm.api.put_json("vm.add-net", &card)?.ok()?;
            more.join(&mut vm)?;
            // The guest's driver uses a pair for each of its processors.
            more.has_queues(2)?;
            vm.mode_becomes("more", InterruptMode::Msix)?;
            vm.remove("more")?;
        }
        vm.descriptors_return_to(host, before)?;
        lan.carries(&mut vm)?;
        let counters = vm.counters()?["lan"].take();
        let count = |name: &str| counters[name].as_u64().unwrap_or(0);
        let carried = 2 * MUCH as u64;
        ensure(count("rx_bytes") > carried && count("tx_bytes") > carried, || {
            counters.to_string()
        })?;
        same("notifications that took an exit", &count("trapped_notifications"), &0)?;

        vm.guest.type_in("reboot -f\n")?;
        vm.guest.ready()?;
        lan.join(&mut vm)?;
        lan.carries(&mut vm)
    });
}

#[test]
fn card_that_the_hosts_kernel_carries_can_be_replugged_and_survives_a_reboot() {
    in_lab(|host| {
        run(Command::new("modprobe").arg("vhost_net"))?;
        let lan = Tap::with_several_queues("hb0", 70)?;
        let mut vm = with_card(&lan, ",num_queues=4,x_vhost=on")?;
        lan.join(&mut vm)?;
        lan.has_queues(2)?;
        let before = vm.settled_descriptors(host)?;
        lan.carries(&mut vm)?;
        vm.remove("lan")?;

        let card = json!({ "tap": lan.name, "id": "lan", "num_queues": 4, "x_vhost": true });
        let hidden = host.hide("/dev/vhost-net")?;
        let refused = format!("{:?}", vm.api.put_json("vm.add-net", &card)?);
        ensure(refused.contains("modprobe vhost_net"), || refused)?;
        drop(hidden);
        vm.api.put_json("vm.add-net", &card)?.ok()?;
        lan.join(&mut vm)?;
        lan.carries(&mut vm)?;
        vm.descriptors_return_to(host, before)?;
        let counters = vm.counters()?["lan"].take();
        let trapped = &counters["trapped_notifications"];
        same("notifications that took an exit", trapped, &json!(0))?;
        same("commands that were refused", &counters["refused_commands"], &json!(0))?;

        vm.guest.type_in("reboot -f\n")?;
        vm.guest.ready()?;
        lan.join(&mut vm)?;
        lan.carries(&mut vm)?;
        vm.pause()?;
        vm.resume()?;
        lan.carries(&mut vm)
    });
}

#[test]
fn taps_that_were_handed_over_carry_data_and_are_let_go_with_their_cards() {
    in_lab(|host| {
        let (lan, wire) = (Tap::with_several_queues("hb0", 70)?, Macvtap::new(71)?);
        let program = Some(wire.program()?);
        let net = format!("fd=3,mac={},id=wire", wire.address()?);
        let arguments = vec!["--net".to_owned(), net];
        let options = Options { arguments, program, cpus: "boot=2", ..Options::default() };
        let mut vm = options.boot()?;
        wire.tap.join(&mut vm)?;
        let before = vm.settled_descriptors(host)?;

        let null = File::open("/dev/null").doing("open /dev/null")?;
        let refused = format!("{:?}", hand_over(&vm, vec![null], r#"{"id":"lan"}"#));
        ensure(refused.contains("device.bad-path"), || refused)?;
        let two = r#"{"id":"lan","mac":"02:68:6f:74:62:01","num_queues":4}"#;
        let taps = || {
            let opened = devices::virtio::net::open(lan.name, 2);
            opened.map_err(|error| Error::Unexpected(error.to_string()))
        };
        let refused = format!("{:?}", hand_over(&vm, taps()?, r#"{"id":"lan"}"#));
        ensure(refused.contains("num_queues 4"), || refused)?;
        vm.descriptors_return_to(host, before)?;

        hand_over(&vm, taps()?, two)?;
        lan.join(&mut vm)?;
        lan.has_queues(2)?;
        lan.carries(&mut vm)?;
        let cards = vm.info()?["config"]["net"].take();
        let shown = cards.as_array().into_iter().flatten().find(|card| card["id"] == "lan");
        same("what stands for them", &shown.map(|card| &card["fds"]), &Some(&json!([-1, -1])))?;

        // Booted again, the VM has the same cards on the same descriptors, in order of their names.
        vm.api.put("vm.shutdown")?.ok()?;
        vm.boot_again()?;
        vm.guest.ready()?;
        lan.join(&mut vm)?;
        wire.tap.join(&mut vm)?;
        lan.has_queues(2)?;
        lan.carries(&mut vm)?;
        vm.remove("lan")?;
        vm.descriptors_return_to(host, before)?;
        ensure(wire.is_open_in(&vm)?, || "nobody has the macvtap".into())?;
        vm.remove("wire")?;
        until("the macvtap's release", CONNECTION_LIMIT, || {
            let open = wire.is_open_in(&vm)?;
            Ok(if open { Look::NotYet("it is open".into()) } else { Look::Holds(()) })
        })
    });
}

#[test]
fn tap_that_cannot_be_had_is_refused_and_one_that_goes_leaves_the_guest_alone() {
    in_lab(|host| {
        let lan = Tap::new("hb0", 70)?;
        let mut vm = with_card(&lan, "")?;
        lan.join(&mut vm)?;
        let before = vm.settled_descriptors(host)?;

        for (tap, status, code) in [
            (lan.name, 400, "device.in-use"),
            ("lo", 400, "device.bad-path"),
            ("nowhere", 500, "device.permission"),
            ("a/b", 400, "device.bad-request"),
        ] {
            let refused = vm.api.put_json("vm.add-net", &json!({ "tap": tap }))?;
            let said = format!("{refused:?}");
            ensure(refused.status == status && said.contains(code), || format!("{tap}: {said}"))?;
        }
        vm.descriptors_return_to(host, before)?;
        let refused = vm.api.put_json("vm.add-net", &json!({ "tap": "hb1", "num_queues": 3 }))?;
        same("the status of half a pair", &refused.status, &400)?;

        lan.delete()?;
        // What is sent is dropped, and nothing spins: the guest and the API are as awake as ever.
        let ping = vm.guest.try_run(&format!("ping -c 2 -W 1 {}", lan.address(1)))?;
        ensure(ping.status != 0, || format!("without a tap: {}", ping.text))?;
        let log = vm.log()?;
        ensure(log.contains("its tap has failed"), || format!("it does not say so: {log}"))?;
        vm.remove("lan")
    });
}

/// Boots a guest with a card on `tap`; `more` is what else is said of it.
fn with_card(tap: &Tap, more: &str) -> Result<Vm> {
    let option = format!("tap={},mac={MAC},id=lan{more}", tap.name);
    let arguments = vec!["--net".to_owned(), option];
    let mut vm = Options { arguments, cpus: "boot=2", ..Options::default() }.boot()?;
    let found = vm.guest.run(&format!("grep -l {MAC} /sys/class/net/*/address"))?;
    ensure(found.contains("/sys/class/net/"), || format!("no card has the address: {found}"))?;
    Ok(vm)
}

/// Gives the guest a card on a tap that we have opened, and forget.
fn hand_over(vm: &Vm, taps: Vec<File>, body: &str) -> Result {
    let fds: Vec<OwnedFd> = taps.into_iter().map(OwnedFd::from).collect();
    let mut card: NetConfig =
        serde_json::from_str(body).map_err(|error| Error::Unexpected(error.to_string()))?;
    card.fds = Some(Fds::Here(fds.into()));
    let added = Client::new(vm.api.socket()).ask(&Request::AddNet(card));
    added.map(drop).map_err(|error| Error::Unexpected(error.to_string()))
}

/// A tap on a network card of the host, which has another interface there to speak with.
struct Macvtap {
    /// The other interface.
    tap: Tap,
    folder: TempDir,
}

/// The card, and the tap on it.
const CARD: &str = "hbcard";
const MACVTAP: &str = "hbwire";

impl Macvtap {
    fn new(network: u8) -> Result<Self> {
        for module in ["dummy", "macvlan", "macvtap"] {
            run(Command::new("modprobe").arg(module))?;
        }
        ip(&["link", "add", CARD, "type", "dummy"])?;
        let tap = Tap { name: "hbpeer", network };
        ip(&["link", "add", "link", CARD, tap.name, "type", "macvlan", "mode", "bridge"])?;
        ip(&["link", "add", "link", CARD, MACVTAP, "type", "macvtap", "mode", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", tap.address(1)), "dev", tap.name])?;
        for name in [CARD, tap.name, MACVTAP] {
            ip(&["link", "set", name, "up"])?;
        }
        let folder = tempfile::tempdir().doing("make a folder")?;
        Ok(Self { tap, folder })
    }

    fn sysfs(file: &str) -> Result<String> {
        let path = format!("/sys/class/net/{MACVTAP}/{file}");
        Ok(std::fs::read_to_string(path).doing("ask for the macvtap")?.trim().to_owned())
    }

    fn address(&self) -> Result<String> {
        Self::sysfs("address")
    }

    fn node(&self) -> Result<String> {
        Ok(format!("/dev/tap{}", Self::sysfs("ifindex")?))
    }

    /// Whether hotbay has it open.
    fn is_open_in(&self, vm: &Vm) -> Result<bool> {
        let (node, folder) = (PathBuf::from(self.node()?), format!("/proc/{}/fd", vm.pid()));
        let open = std::fs::read_dir(folder).doing("list hotbay's descriptors")?.flatten();
        // One may be closed while we look.
        Ok(open.filter_map(|entry| entry.path().read_link().ok()).any(|path| path == node))
    }

    /// hotbay, which is passed the macvtap as descriptor 3.
    fn program(&self) -> Result<PathBuf> {
        let path = self.folder.path().join("hotbay");
        let hotbay = binary("hotbay");
        let script =
            format!("#!/bin/sh\nexec 3<>{}\nexec {} \"$@\"\n", self.node()?, hotbay.display());
        std::fs::write(&path, script).doing("write a script")?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o755))
            .doing("make it a program")?;
        Ok(path)
    }
}

impl Drop for Macvtap {
    fn drop(&mut self) {
        // Those on it go with it.
        let _ = Command::new("ip").args(["link", "del", CARD]).output();
    }
}

/// A tap of the host with an address, in a network of its own.
struct Tap {
    name: &'static str,
    network: u8,
}

impl Tap {
    fn new(name: &'static str, network: u8) -> Result<Self> {
        Self::made(name, network, &[])
    }

    fn with_several_queues(name: &'static str, network: u8) -> Result<Self> {
        Self::made(name, network, &["multi_queue"])
    }

    fn made(name: &'static str, network: u8, more: &[&str]) -> Result<Self> {
        run(Command::new("modprobe").arg("tun"))?;
        let tap = Self { name, network };
        // hotbay has no capabilities: a tap is its user's, or not for it.
        ip(&[&["tuntap", "add", "dev", name, "mode", "tap", "user", "root"], more].concat())?;
        ip(&["addr", "add", &format!("{}/24", tap.address(1)), "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        Ok(tap)
    }

    fn address(&self, host: u8) -> String {
        format!("192.168.{}.{host}", self.network)
    }

    /// Checks how many queues the tap puts packets into.
    fn has_queues(&self, count: usize) -> Result {
        let folder = format!("/sys/class/net/{}/queues", self.name);
        let names = std::fs::read_dir(&folder).doing("list the tap's queues")?.flatten();
        let receiving = names.filter(|entry| entry.file_name().to_string_lossy().starts_with("tx"));
        same("queues of the tap", &receiving.count(), &count)
    }

    fn delete(&self) -> Result {
        ip(&["link", "del", self.name])
    }

    /// Gives the guest's card on this tap an address, and pings through it.
    fn join(&self, vm: &mut Vm) -> Result {
        let (ours, theirs) = (self.address(1), self.address(2));
        // The one that has no address yet; a card that has just come may still be without a driver.
        let unused = "for i in /sys/class/net/eth*; do [ -e $i ] || continue; i=${i##*/}; \
                      ifconfig $i | grep -q 'inet addr' || { echo $i; exit 0; }; done; exit 1";
        let interface = vm.guest.wait_for("a card without an address", &format!("({unused})"))?;
        vm.guest.run(&format!("ifconfig {interface} {theirs} netmask 255.255.255.0 up"))?;
        vm.guest.wait_for("an answer of the host", &format!("ping -c 1 -W 2 {ours}"))?;
        let report = vm.guest.run(&format!("ping -c 3 -W 5 {ours}"))?;
        ensure(report.contains("3 packets received"), || format!("pings were lost: {report}"))
    }

    /// Sends the guest much, and has it sent back.
    fn carries(&self, vm: &mut Vm) -> Result {
        let listener = TcpListener::bind((self.address(1), 0)).doing("listen")?;
        let port = listener.local_addr().doing("ask for the port")?.port();
        let mut sent = vec![0; MUCH];
        fastrand::fill(&mut sent);

        let get = format!("nc {} {port} >/tmp/data </dev/null &\n", self.address(1));
        vm.guest.type_in(&get)?;
        let mut there = accept(&listener)?;
        there.write_all(&sent).doing("send to the guest")?;
        there.shutdown(Shutdown::Both).doing("end the connection")?;
        drop(there);
        vm.guest.wait_for("all of it", &format!("[ $(wc -c </tmp/data) -eq {MUCH} ]"))?;

        vm.guest.type_in(&format!("nc {} {port} </tmp/data >/dev/null &\n", self.address(1)))?;
        let (mut back, mut received) = (accept(&listener)?, vec![0; MUCH]);
        back.set_read_timeout(Some(CONNECTION_LIMIT)).doing("set a limit")?;
        back.read_exact(&mut received).doing("receive from the guest")?;
        ensure(received == sent, || "what came back is not what was sent".into())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // It is gone if the scene has deleted it.
        let _ = Command::new("ip").args(["link", "del", self.name]).output();
    }
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true).doing("not wait for a connection")?;
    let stream = until("a connection of the guest", CONNECTION_LIMIT, || {
        Ok(match listener.accept() {
            Ok((stream, _)) => Look::Holds(stream),
            Err(error) => Look::NotYet(error.to_string()),
        })
    })?;
    stream.set_nonblocking(false).doing("wait for data")?;
    Ok(stream)
}

fn ip(arguments: &[&str]) -> Result {
    run(Command::new("ip").args(arguments)).map(drop)
}
