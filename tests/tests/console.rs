//! A paravirtual console: what a guest and its kernel print there arrives, what is typed there is answered.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tests::error::{Doing, ensure};
use tests::wait::{Look, until};
use tests::{Options, Result, in_lab};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn what_the_guest_and_its_kernel_print_is_in_the_file_in_order() {
    in_lab(|_| {
        let dir = tempfile::tempdir().doing("make a folder")?;
        let file = dir.path().join("console");
        let console = format!("file={}", file.display());
        let mut vm = Options { console, words: "console=hvc0", ..Options::default() }.boot()?;

        vm.guest.run("stty -F /dev/hvc0 -onlcr; seq 1 2000 >/dev/hvc0")?;
        vm.guest.run("echo '<1>from the kernel' >/dev/kmsg")?;

        let numbers: String = (1..=2000).map(|number| format!("{number}\n")).collect();
        until("all of it in the file", LIMIT, || {
            let said = fs::read_to_string(&file).doing("read the console's file")?;
            let all = said.contains(&numbers) && said.contains("from the kernel");
            Ok(if all { Look::Holds(()) } else { Look::NotYet(format!("{} bytes", said.len())) })
        })
    });
}

#[test]
fn what_is_typed_is_answered_before_and_after_a_reboot() {
    in_lab(|_| {
        let dir = tempfile::tempdir().doing("make a folder")?;
        let socket = dir.path().join("console.sock");
        let console = format!("socket={}", socket.display());
        let mut vm = Options { console, words: "console=hvc0", ..Options::default() }.boot()?;
        let mut client = UnixStream::connect(&socket).doing("connect to the console")?;
        client.set_read_timeout(Some(LIMIT)).doing("set a limit")?;
        for reboots in 0..2 {
            vm.guest.run("(setsid sh -c 'exec sh </dev/hvc0 >/dev/hvc0 2>&1' &)")?;
            client.write_all(b"echo $((6 * 7))\n").doing("type")?;
            hears(&mut client, "42")?;
            if reboots == 0 {
                vm.guest.type_in("reboot -f\n")?;
                vm.guest.ready()?;
            }
        }
        Ok(())
    });
}

/// Reads until `text` comes.
fn hears(client: &mut UnixStream, text: &str) -> Result {
    let (mut heard, mut piece) = (String::new(), [0; 4096]);
    while !heard.contains(text) {
        let count = client.read(&mut piece).doing(format!("hear {text:?} after {heard:?}"))?;
        ensure(count > 0, || format!("the console has ended after {heard:?}"))?;
        heard.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    Ok(())
}
