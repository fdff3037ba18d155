//! Whether the guest has addresses enough for a function's BARs, beside those of
//! the functions it has. The guest places them; this only says what cannot be.

use std::fs;
use std::ops::Range;

use crate::pci::bar::{Apertures, Kind};
use crate::vfio::host::HostFunction;

// Flags of a resource in sysfs (`include/linux/ioport.h`).
const IO: u64 = 0x100;
const MEMORY: u64 = 0x200;
const PREFETCH: u64 = 0x2000;
const MEMORY_64: u64 = 0x10_0000;
/// Lines of BARs 0 to 5 in sysfs; the next is the ROM.
const BARS: usize = 6;

/// The guest's windows are too small.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the BARs of {name} and of the devices there are need {needed:#x} bytes of {window}, \
     and the guest has {there:#x}; remove a device first"
)]
pub struct NoRoom {
    name: String,
    window: &'static str,
    needed: u64,
    there: u64,
}

/// A BAR or the ROM: what it is, and its bytes.
pub type Need = (Kind, u64);

/// The functions that there are.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// Functions of the host's, of which its kernel knows what they need.
    pub of_host: Vec<HostFunction>,
    /// What functions of servers need, which are to be asked for it.
    pub of_servers: Vec<Need>,
}

impl Others {
    /// Checks that the function `name`, which needs `own`, fits beside them.
    pub fn leave_room(
        &self,
        name: &str,
        own: &[Need],
        apertures: &Apertures,
    ) -> Result<(), NoRoom> {
        let of_host = self.of_host.iter().flat_map(of_host);
        let all: Vec<_> = of_host.chain(self.of_servers.iter().chain(own).copied()).collect();
        let name = name.to_owned();
        short(own, &all, apertures)
            .map_or(Ok(()), |(window, needed, there)| Err(NoRoom { name, window, needed, there }))
    }
}

/// The first window that `own` needs and that is too small for `all`: its name, the
/// bytes needed, the bytes there.
fn short(own: &[Need], all: &[Need], apertures: &Apertures) -> Option<(&'static str, u64, u64)> {
    own.iter().find_map(|&(kind, _)| {
        let (name, window) = window(kind, apertures);
        let beside = all.iter().filter(|(kind, _)| self::window(*kind, apertures).0 == name);
        let needed = beside.fold(0, |sum: u64, (_, size)| sum.saturating_add(*size));
        let there = window.end.saturating_sub(window.start);
        (needed > there).then_some((name, needed, there))
    })
}

/// Where the guest places BARs of a kind, and what to call it.
fn window(kind: Kind, apertures: &Apertures) -> (&'static str, &Range<u64>) {
    match kind {
        Kind::Io => ("I/O ports", &apertures.io),
        Kind::Memory32 { .. } | Kind::Rom => ("memory below 4 GiB", &apertures.mem32),
        Kind::Memory64 { .. } => ("memory above 4 GiB", &apertures.mem64),
    }
}

/// What the BARs and the ROM of a function are, as the host's kernel found them.
/// Nothing if it does not say: then nothing is known to be wrong.
pub fn of_host(function: &HostFunction) -> Vec<Need> {
    let file = function.file("resource");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().take(BARS + 1).enumerate().filter_map(|(index, line)| read(index, line)).collect()
}

/// Reads `0xSTART 0xEND 0xFLAGS`.
fn read(index: usize, line: &str) -> Option<Need> {
    let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(hex).collect();
    let [start, end, flags] = numbers[..] else { return None };
    let prefetchable = flags & PREFETCH != 0;
    let kind = match flags {
        _ if index == BARS => Kind::Rom,
        _ if flags & IO != 0 => Kind::Io,
        _ if flags & MEMORY_64 != 0 => Kind::Memory64 { prefetchable },
        _ if flags & MEMORY != 0 => Kind::Memory32 { prefetchable },
        _ => return None,
    };
    let size = end.checked_sub(start)?.checked_add(1)?;
    (flags != 0).then_some((kind, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    const M32: Kind = Kind::Memory32 { prefetchable: false };
    const M64: Kind = Kind::Memory64 { prefetchable: true };

    fn apertures() -> Apertures {
        Apertures { io: 0x1000..0x2000, mem32: 0xc000_0000..0xd000_0000, mem64: 1 << 32..1 << 33 }
    }

    #[test]
    fn resources_are_read_as_sysfs_writes_them() {
        let bar = "0x00000000febc0000 0x00000000febdffff 0x0000000000040200";
        let wide = "0x0000380000000000 0x00003800ffffffff 0x000000000014220c";
        let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000";

        assert_eq!(read(0, bar), Some((M32, 0x2_0000)));
        assert_eq!(read(2, wide), Some((M64, 1 << 32)));
        assert_eq!(read(1, none), None);
        assert_eq!(read(6, bar), Some((Kind::Rom, 0x2_0000)));
        assert_eq!(read(0, "nonsense"), None);
    }

    #[test]
    fn sum_of_all_bars_of_a_kind_fits_its_window() {
        let (half, all) = ((M32, 0x800_0000), apertures());

        assert_eq!(short(&[half], &[half, half], &all), None);
        let three = short(&[half], &[half, half, half], &all);
        assert_eq!(three, Some(("memory below 4 GiB", 0x1800_0000, 0x1000_0000)));
    }

    #[test]
    fn functions_of_servers_take_room_and_are_refused_where_there_is_none() {
        let (half, all) = ((M32, 0x800_0000), apertures());
        let others = Others { of_servers: vec![half], ..Others::default() };

        assert_eq!(others.leave_room("u1", &[half], &all), Ok(()));
        let refused = others.leave_room("u1", &[half, half], &all).unwrap_err().to_string();
        assert!(refused.contains("BARs of u1") && refused.contains("0x18000000"), "{refused}");
        let huge = others.leave_room("u1", &[(M64, u64::MAX), (M64, u64::MAX)], &all);
        assert!(huge.is_err());
    }

    #[test]
    fn window_that_a_function_does_not_need_is_not_its_concern() {
        let full = [(Kind::Io, 0x1000), (Kind::Io, 0x1000)];

        assert_eq!(short(&[(M64, 1 << 32)], &full, &apertures()), None);
        assert!(short(&[(Kind::Io, 8)], &full, &apertures()).is_some());
    }
}
