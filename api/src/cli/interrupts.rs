//! The answer of `vm.interrupts` as a table that a person can read.

use std::fmt::Display;

use super::table::{Align, NONE, aligned};
use crate::schema::interrupts::{
    Backend, DeviceInterrupts, HostError, InterruptMode, Interrupts, LineState, VectorState,
};

const COLUMNS: usize = 10;
const HEADINGS: [(&str, Align); COLUMNS] = [
    ("VECTOR", Align::Right),
    ("ADDRESS", Align::Right),
    ("DATA", Align::Right),
    ("GUEST", Align::Left),
    ("PENDING", Align::Left),
    ("HOST", Align::Left),
    ("BACKEND", Align::Left),
    ("GSI", Align::Right),
    ("RELAYED", Align::Right),
    ("TAKEN", Align::Right),
];

/// Every device: a line that says what is on, then its vectors, if it has any.
pub(super) fn table(interrupts: &Interrupts) -> String {
    if interrupts.is_empty() {
        return "There is no device.".to_owned();
    }
    let blocks: Vec<_> = interrupts.iter().map(|(id, device)| block(id, device)).collect();
    blocks.join("\n")
}

fn block(id: &str, device: &DeviceInterrupts) -> String {
    let mut text = format!("{id}: {}\n", summary(device));
    if let Some(HostError { errno, message }) = &device.host_error {
        text.push_str(&format!("  {errno}: {message}\n"));
    }
    if !device.vectors.is_empty() {
        let rows = device.vectors.iter().map(|vector| row(vector, device));
        text.push_str(&aligned(HEADINGS, &rows.collect::<Vec<_>>()));
    }
    text.push_str(&errors(&device.vectors));
    text
}

/// A line for each thing that the host has refused, with the vectors it is about.
fn errors(vectors: &[VectorState]) -> String {
    let mut refused: Vec<(&HostError, Vec<u16>)> = Vec::new();
    for (error, vector) in vectors.iter().filter_map(|v| Some((v.host_error.as_ref()?, v.vector))) {
        match refused.iter_mut().find(|(known, _)| *known == error) {
            Some((_, vectors)) => vectors.push(vector),
            None => refused.push((error, vec![vector])),
        }
    }
    let line = |(error, vectors): &(&HostError, Vec<u16>)| {
        let s = if vectors.len() == 1 { "" } else { "s" };
        format!("  vector{s} {}: {}: {}\n", ranges(vectors), error.errno, error.message)
    };
    refused.iter().map(line).collect()
}

/// Numbers in ascending order as `1, 4-7`.
fn ranges(numbers: &[u16]) -> String {
    let apart = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let range = |run: &[u16]| match run {
        [first, .., last] => format!("{first}-{last}"),
        [] | [_] => run.iter().map(u16::to_string).collect(),
    };
    apart.map(range).collect::<Vec<_>>().join(", ")
}

fn summary(device: &DeviceInterrupts) -> String {
    let shown = device.vectors.len();
    let mut text = match (device.mode, device.msix, device.msi, device.line) {
        (InterruptMode::Msix, Some(msix), ..) => {
            let mask = if msix.function_masked { ", function mask set" } else { "" };
            format!("MSI-X on{mask}, {}", of(shown, msix.table_size))
        }
        (InterruptMode::Msi, _, Some(msi), _) => format!("MSI on, {}", of(shown, msi.capable)),
        (InterruptMode::Intx, .., Some(line)) => line_summary(&line),
        (_, Some(msix), ..) => {
            format!("all interrupts off, MSI-X table of {} vectors", msix.table_size)
        }
        (..) => "all interrupts off".to_owned(),
    };
    if device.host_mode != device.mode {
        text.push_str(&format!("; but on the host {} is on", name(device.host_mode)));
    }
    text
}

fn of(shown: usize, all: u16) -> String {
    format!("{shown} of {all} vectors in use")
}

fn line_summary(line: &LineState) -> String {
    let wired = if line.wired { "wired" } else { "not wired" };
    format!("INTx on, gsi {}, {wired}, {} taken by the host", line.gsi, number(line.host))
}

fn name(mode: InterruptMode) -> &'static str {
    match mode {
        InterruptMode::None => "nothing",
        InterruptMode::Intx => "INTx",
        InterruptMode::Msi => "MSI",
        InterruptMode::Msix => "MSI-X",
    }
}

fn row(state: &VectorState, device: &DeviceInterrupts) -> [String; COLUMNS] {
    let VectorState { vector, guest, delivery, counts, host_error } = state;
    let off = device.msix.is_some_and(|msix| !msix.enabled);
    let seen = match (guest.live, guest.masked) {
        (true, _) => "live",
        (false, true) => "masked",
        (false, false) if off => "off",
        (false, false) => "function-masked",
    };
    // A vector that was not tried, because nothing is on, has the device's error.
    let untried = device.host_error.as_ref().filter(|_| guest.live && !delivery.wired);
    let host = match host_error.as_ref().or(untried) {
        Some(error) => &error.errno,
        None if delivery.wired => "wired",
        None => NONE,
    };
    let backend = match delivery.backend {
        Backend::Detached => NONE,
        Backend::Relayed => "relayed",
        Backend::Routed => "routed",
    };
    [
        vector.to_string(),
        format!("{:#010x}", guest.address),
        format!("{:#06x}", guest.data),
        seen.to_owned(),
        (if guest.pending { "yes" } else { NONE }).to_owned(),
        host.to_owned(),
        backend.to_owned(),
        number(delivery.gsi),
        counts.relayed.to_string(),
        number(counts.host),
    ]
}

fn number(number: Option<impl Display>) -> String {
    number.map_or_else(|| NONE.to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::interrupts::{
        GuestVector, MsiState, MsixState, VectorCounts, VectorDelivery,
    };

    fn device(mode: InterruptMode, vectors: Vec<VectorState>) -> DeviceInterrupts {
        let msix = MsixState {
            table_size: 5,
            enabled: mode == InterruptMode::Msix,
            function_masked: false,
        };
        let msi = MsiState { capable: 4, in_use: 2 };
        let (msix, msi) = (Some(msix), Some(msi));
        let host_error = None;
        DeviceInterrupts { mode, host_mode: mode, host_error, msix, msi, line: None, vectors }
    }

    fn vector(number: u16) -> VectorState {
        VectorState {
            vector: number,
            guest: GuestVector {
                address: 0xfee0_1000,
                data: 0x41,
                masked: false,
                pending: false,
                live: true,
            },
            delivery: VectorDelivery { backend: Backend::Routed, gsi: Some(24), wired: true },
            counts: VectorCounts { relayed: 2, host: Some(10417) },
            host_error: None,
        }
    }

    fn no_space() -> HostError {
        HostError { errno: "ENOSPC".to_owned(), message: "the host is full".to_owned() }
    }

    fn refused(number: u16) -> VectorState {
        let live = vector(number);
        let delivery = VectorDelivery { backend: Backend::Detached, gsi: None, wired: false };
        let counts = VectorCounts { relayed: 0, host: None };
        VectorState { delivery, counts, host_error: Some(no_space()), ..live }
    }

    fn masked(number: u16) -> VectorState {
        let live = vector(number);
        VectorState {
            guest: GuestVector { masked: true, pending: true, live: false, ..live.guest },
            delivery: VectorDelivery { backend: Backend::Detached, ..live.delivery },
            counts: VectorCounts { relayed: 0, host: None },
            ..live
        }
    }

    fn only(device: DeviceInterrupts) -> String {
        table(&[("nic0".to_owned(), device)].into())
    }

    #[test]
    fn columns_are_aligned() {
        let text = only(device(InterruptMode::Msix, vec![vector(0), masked(10)]));

        let expected = "\
nic0: MSI-X on, 2 of 5 vectors in use
  VECTOR     ADDRESS    DATA  GUEST   PENDING  HOST   BACKEND  GSI  RELAYED  TAKEN
       0  0xfee01000  0x0041  live    -        wired  routed    24        2  10417
      10  0xfee01000  0x0041  masked  yes      wired  -         24        0      -
";
        assert_eq!(text, expected);
    }

    #[test]
    fn refused_vectors_have_the_error_in_their_rows_and_once_below() {
        let vectors = vec![vector(0), refused(1), refused(3), refused(4)];

        let text = only(device(InterruptMode::Msix, vectors));

        let expected = "\
nic0: MSI-X on, 4 of 5 vectors in use
  VECTOR     ADDRESS    DATA  GUEST  PENDING  HOST    BACKEND  GSI  RELAYED  TAKEN
       0  0xfee01000  0x0041  live   -        wired   routed    24        2  10417
       1  0xfee01000  0x0041  live   -        ENOSPC  -          -        0      -
       3  0xfee01000  0x0041  live   -        ENOSPC  -          -        0      -
       4  0xfee01000  0x0041  live   -        ENOSPC  -          -        0      -
  vectors 1, 3-4: ENOSPC: the host is full
";
        assert_eq!(text, expected);
    }

    #[test]
    fn kind_that_the_host_refuses_says_why_and_so_do_its_vectors() {
        let live = VectorState { host_error: None, ..refused(0) };
        let mut off = device(InterruptMode::Msix, vec![live]);
        (off.host_mode, off.host_error) = (InterruptMode::None, Some(no_space()));

        let text = only(off);

        assert!(text.contains("; but on the host nothing is on\n  ENOSPC: the host is full\n"));
        assert!(text.contains("  live   -        ENOSPC  "), "{text}");
    }

    #[test]
    fn first_line_says_what_is_on() {
        let mut msix = device(InterruptMode::Msix, Vec::new());
        msix.host_mode = InterruptMode::None;
        msix.msix = msix.msix.map(|msix| MsixState { function_masked: true, ..msix });
        let mut intx = device(InterruptMode::Intx, Vec::new());
        intx.line = Some(LineState { gsi: 17, allowed: true, wired: true, host: Some(3) });

        assert_eq!(
            only(msix),
            "nic0: MSI-X on, function mask set, 0 of 5 vectors in use; but on the host nothing is on\n"
        );
        assert_eq!(only(intx), "nic0: INTx on, gsi 17, wired, 3 taken by the host\n");
        let msi = only(device(InterruptMode::Msi, vec![vector(0)]));
        assert!(msi.starts_with("nic0: MSI on, 1 of 4 vectors in use\n"), "{msi}");
        let off = only(device(InterruptMode::None, Vec::new()));
        assert_eq!(off, "nic0: all interrupts off, MSI-X table of 5 vectors\n");
    }

    #[test]
    fn vector_without_a_mask_of_its_own_says_what_holds_it() {
        let mut held = vector(0);
        held.guest.live = false;

        let masked = only(device(InterruptMode::Msix, vec![held.clone()]));
        let off = only(device(InterruptMode::None, vec![held]));

        assert!(masked.contains("  function-masked  "), "{masked}");
        assert!(off.contains("  off  "), "{off}");
    }

    #[test]
    fn devices_follow_each_other_by_name() {
        let off = || device(InterruptMode::None, Vec::new());

        let text = table(&[("b".to_owned(), off()), ("a".to_owned(), off())].into());

        assert!(text.starts_with("a: all") && text.contains("\n\nb: all"), "{text}");
    }
}
