//! Command lines of cloud-hypervisor's users, and mistakes in them.

use super::*;
use crate::descriptors::Fds;
use crate::schema::landlock::LandlockAccess;
use crate::schema::net::NetConfig;
use crate::schema::prefault::Prefault;

fn parsed(line: &str) -> HotbayArgs {
    match parse(line.split_whitespace().map(OsString::from)).unwrap() {
        Line::Do(arguments) => arguments,
        Line::Say(text) => panic!("{text}"),
    }
}

fn refused(line: &str) -> String {
    let text = parse(line.split_whitespace().map(OsString::from)).unwrap_err().to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn everything_on_one_line() {
    let arguments = parsed(
        "hotbay --api-socket path=/run/a.sock --kernel /vmlinuz --initramfs /initrd \
         --cmdline console=ttyS0 --cpus boot=2,max=4 --memory size=1G,shared=on,hugepages=on \
         --serial tty --console off --device path=/sys/a,id=a path=/sys/b --device path=/sys/c \
         --seccomp log --log-file /log -vv",
    );

    assert_eq!(arguments.api_socket, Some(Address::Path("/run/a.sock".into())));
    assert_eq!(arguments.seccomp, Seccomp::Log);
    assert_eq!(arguments.log_file, Some("/log".into()));
    assert_eq!(arguments.verbosity, 2);
    let vm = arguments.vm.unwrap();
    assert_eq!(vm.payload.unwrap().initramfs, Some("/initrd".into()));
    assert_eq!(vm.cpus, CpusConfig { boot_vcpus: 2, max_vcpus: 4 });
    assert_eq!(vm.memory.size, 1 << 30);
    assert!(vm.memory.shared && vm.memory.hugepages);
    assert_eq!(vm.serial.mode, ConsoleMode::Tty);
    let paths: Vec<PathBuf> = vm.devices.unwrap().into_iter().map(|device| device.path).collect();
    assert_eq!(paths, ["/sys/a", "/sys/b", "/sys/c"].map(PathBuf::from));
}

#[test]
fn events_go_to_a_path_or_a_descriptor() {
    let place = |place: &str| parsed(&format!("hotbay --kernel /k --event-monitor {place}"));
    let path = EventMonitor::Path("/run/events".into());

    assert_eq!(place("path=/run/events").event_monitor, Some(path));
    assert_eq!(place("fd=3").event_monitor, Some(EventMonitor::Fd(3)));
    for wrong in ["/run/events", "path=", "fd=-1", "fd=x"] {
        let why = refused(&format!("hotbay --kernel /k --event-monitor {wrong}"));
        assert!(why.contains("--event-monitor"), "{why}");
    }
}

#[test]
fn memory_is_taken_never_at_once_or_in_the_background() {
    let prefault = |value: &str| {
        let line = format!("hotbay --kernel /k --memory size=1G,prefault={value}");
        parsed(&line).vm.unwrap().memory.prefault
    };

    assert_eq!(prefault("off"), Prefault::Off);
    assert_eq!(prefault("on"), Prefault::On);
    assert_eq!(prefault("background"), Prefault::Background);
    let why = refused("hotbay --kernel /k --memory prefault=later");
    assert!(why.ends_with("prefault must be on, off or background"), "{why}");
}

#[test]
fn devices_sit_on_the_segments_of_the_platform() {
    let line = "hotbay --kernel /k --platform num_pci_segments=3 --device path=/d,pci_segment=2";
    let vm = parsed(line).vm.unwrap();

    assert_eq!(vm.platform.unwrap().num_pci_segments, 3);
    assert_eq!(vm.devices.unwrap()[0].pci_segment, 2);
    let why = refused("hotbay --kernel /k --platform num_pci_segments=x");
    assert!(why.contains("num_pci_segments must be a whole number"), "{why}");
}

#[test]
fn server_alone_has_no_vm() {
    let arguments = parsed("hotbay --api-socket /run/a.sock");

    assert_eq!(arguments.vm, None);
    assert_eq!(arguments.seccomp, Seccomp::True);
}

#[test]
fn kernel_alone_has_the_defaults_of_the_api() {
    let vm = parsed("hotbay --kernel /k").vm.unwrap();

    assert_eq!(vm.cpus, CpusConfig::default());
    assert_eq!(vm.memory, MemoryConfig::default());
    assert_eq!(vm.serial.mode, ConsoleMode::Null);
}

#[test]
fn maximum_of_processors_follows_the_number_at_boot() {
    let vm = parsed("hotbay --kernel /k --cpus boot=3").vm.unwrap();

    assert_eq!(vm.cpus.max_vcpus, 3);
}

#[test]
fn places_of_the_serial_port() {
    let file = parsed("hotbay --kernel /k --serial file=/a=b").vm.unwrap().serial;
    let socket = parsed("hotbay --kernel /k --serial socket=/s").vm.unwrap().serial;

    assert_eq!((file.mode, file.file), (ConsoleMode::File, Some("/a=b".into())));
    assert_eq!((socket.mode, socket.socket), (ConsoleMode::Socket, Some("/s".into())));
}

#[test]
fn quoted_path_keeps_its_comma_and_lists_their_brackets() {
    let device = device("--device", r#"path="/a,b",x_exclude_mmap_bars=[0,2]"#).unwrap();

    assert_eq!(device.path, PathBuf::from("/a,b"));
    assert_eq!(device.x_exclude_mmap_bars, [0, 2]);
    assert!(!device.x_msix_noresize && !device.x_exact_pending);
    let device =
        super::device("--device", "path=/a,x_msix_noresize=on,x_exact_pending=true").unwrap();
    assert!(device.x_msix_noresize && device.x_exact_pending);
}

#[test]
fn mistakes_are_named_in_one_sentence() {
    for (line, words) in [
        ("hotbay", "nothing to do"),
        ("hotbay --cpus boot=2", "--kernel"),
        ("hotbay --kernel /k --cpus boot=x", "--cpus boot=x: boot must be a whole number"),
        ("hotbay --kernel /k --cpus boots=2", "unknown key \"boots\"; there are boot, max"),
        ("hotbay --kernel /k --cpus boot=1,boot=2", "boot is given twice"),
        ("hotbay --kernel /k --memory size=1Q", "size must be a number of bytes"),
        ("hotbay --kernel /k --memory size=99999999999G", "size must be a number of bytes"),
        ("hotbay --kernel /k --memory mergeable=on", "hotbay does not offer this yet"),
        ("hotbay --kernel /k --memory hotplug_method=virtio-mem", "hotbay does not offer this yet"),
        ("hotbay --kernel /k --device id=a", "missing field `path`"),
        ("hotbay --kernel /k --device path=/d,iommu=on", "hotbay does not offer this yet"),
        ("hotbay --kernel /k --device path=\"/d", "not closed"),
        ("hotbay --kernel /k --serial usb", "--serial usb: must be off, null"),
        ("hotbay --kernel /k --seccomp maybe", "maybe"),
        ("hotbay --api-socket fd=x", "not a descriptor number"),
        ("hotbay --firmware /f", "unexpected argument '--firmware'"),
        ("hotbay --kernel /a --kernel /b", "--kernel"),
    ] {
        let text = refused(line);

        assert!(text.contains(words), "{line}: {text}");
    }
}

#[test]
fn defaults_of_what_is_not_offered_pass() {
    parsed(
        "hotbay --kernel /k --memory size=1G,mergeable=off,thp=on,hotplug_method=acpi --cpus boot=1,nested=on",
    );
}

#[test]
fn landlock_is_for_the_process_and_the_vm_of_the_command_line() {
    let rules = vec![
        LandlockConfig { path: "/images".into(), access: LandlockAccess::Read },
        LandlockConfig { path: "/var/log/vm".into(), access: LandlockAccess::ReadWrite },
    ];
    let words = "hotbay --api-socket /a --landlock \
        --landlock-rules path=/images,access=r path=/var/log/vm,access=rw";

    let alone = parsed(words);
    let with_vm = parsed(&format!("{words} --kernel /k"));
    let bare = parsed("hotbay --landlock --kernel /k");

    assert_eq!((alone.landlock.as_ref(), alone.vm), (Some(&rules), None));
    let vm = with_vm.vm.unwrap();
    assert_eq!((vm.landlock_enable, vm.landlock_rules), (true, Some(rules)));
    assert_eq!(bare.vm.unwrap().landlock_rules, None);
}

#[test]
fn help_and_version_are_printed() {
    for word in ["--help", "--version", "-V"] {
        let line = parse(["hotbay".into(), word.into()]).unwrap();

        assert!(matches!(line, Line::Say(text) if text.contains("hotbay")), "{word}");
    }
}

#[test]
fn disks_cards_sockets_and_random_numbers_are_read_as_cloud_hypervisor_reads_them() {
    let line = "hotbay --kernel /k --disk path=/a.raw,readonly=on,num_queues=2 path=/b,direct=on --rng src=/r --vsock cid=3,id=v --balloon size=64M,free_page_reporting=on --net tap=t0,mac=02:00:00:00:00:01,offload_tso=off";

    let vm = parsed(line).vm.unwrap();

    assert_eq!(vm.rng.unwrap().src.to_str(), Some("/r"));
    assert_eq!(vm.vsock.unwrap().cid, 3);
    let balloon = vm.balloon.unwrap();
    assert_eq!((balloon.size, balloon.free_page_reporting), (64 << 20, true));
    let cards = vm.net.unwrap();
    assert_eq!((cards[0].tap.as_deref(), cards[0].offload_tso), (Some("t0"), false));
    let handed = parsed("hotbay --kernel /k --net fd=3 fd=[4,5],num_queues=4").vm.unwrap().net;
    let numbers = |card: &NetConfig| card.fds.clone();
    let expected = [vec![3], vec![4, 5]].map(|fds| Some(Fds::Numbers(fds)));
    assert_eq!(handed.unwrap().iter().map(numbers).collect::<Vec<_>>(), expected);
    let disks = vm.disks.unwrap();

    assert_eq!((disks[0].readonly, disks[0].num_queues, disks[1].direct), (true, 2, true));
}
