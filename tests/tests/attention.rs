//! What gets a guest's attention: its power button, and an interrupt that it cannot mask.

use tests::error::same;
use tests::{Options, Result, Vm, in_lab};

/// A key event: type, code and value (`struct input_event`, linux/input.h): `EV_KEY`, `KEY_POWER`, down.
const PRESSED: &str = "1 116 1 0";

#[test]
fn power_button_is_a_key_that_the_guest_sees_once_for_each_press() {
    in_lab(|_| {
        let mut vm = Options::default().boot()?;
        vm.guest.run("modprobe button && modprobe evdev")?;
        let node = "sed -n '/Power Button/,/^$/ s/.*Handlers=.*\\(event[0-9]*\\).*/\\1/p' /proc/bus/input/devices";
        let node = vm.guest.run(node)?.trim().to_owned();
        vm.guest.run(&format!("cat /dev/input/{node} >/tmp/keys & echo $! >/tmp/cat"))?;
        // What is pressed before anybody listens, nobody hears.
        vm.guest.wait_for("a listener", "ls -l /proc/$(cat /tmp/cat)/fd | grep -q /dev/input")?;

        for presses in 1..=3 {
            vm.api.put("vm.power-button")?.ok()?;
            // A press is four events: down, end of report, up, end of report.
            let all = format!("[ $(stat -c %s /tmp/keys) -ge {} ]", presses * 4 * 24);
            vm.guest.wait_for("a key", &all)?;
        }

        let keys =
            vm.guest.run("od -v -An -tu2 -w24 /tmp/keys | awk '{ print $9, $10, $11, $12 }'")?;
        let pressed = keys.lines().filter(|line| line.trim() == PRESSED).count();
        same("presses", &(pressed, keys.lines().count()), &(3, 12))
    });
}

#[test]
fn nmi_interrupts_each_processor_once_also_after_a_pause() {
    in_lab(|_| {
        let mut vm = Options { cpus: "boot=2", ..Options::default() }.boot()?;
        let before = taken(&mut vm)?;

        vm.api.put("vm.nmi")?.ok()?;
        each_has(&mut vm, &before, 1)?;

        vm.pause()?;
        vm.api.put("vm.nmi")?.ok()?;
        vm.resume()?;
        each_has(&mut vm, &before, 2)
    });
}

/// Non-maskable interrupts that each processor has counted.
fn taken(vm: &mut Vm) -> Result<Vec<u64>> {
    let row = vm.guest.run("grep NMI: /proc/interrupts")?;
    Ok(row.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect())
}

fn each_has(vm: &mut Vm, before: &[u64], more: u64) -> Result {
    let expected: Vec<_> = before.iter().map(|count| count + more).collect();
    let counts = expected.iter().map(u64::to_string).collect::<Vec<_>>().join(" +");
    vm.guest.wait_for("the interrupt", &format!("grep -Eq 'NMI: +{counts} ' /proc/interrupts"))?;
    same("interrupts", &taken(vm)?, &expected)
}
