//! What stands in the way of pinning all RAM, found out before it is tried: the
//! limit of locked memory, and addresses that the IOMMU cannot translate.

use std::fs;
use std::io;

use super::AttachError;
use crate::memory::RamRange;
use crate::vfio::sys::dma::{self, Reach};

/// Capability that lifts the limit (capability.h).
const CAP_IPC_LOCK: u32 = 14;

/// Fails if this process may not lock all of `ram`. Nothing is known to be wrong
/// where the host does not tell.
pub(super) fn lockable(ram: &[RamRange]) -> Result<(), AttachError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limit = dma::lock_limit().unwrap_or(None);
    let needed = ram.iter().map(|range| range.size).sum::<u64>();
    check_lock(needed, &status, limit)
}

/// `limit` in bytes, `None` for none; `status` as in `/proc/self/status`.
fn check_lock(needed: u64, status: &str, limit: Option<u64>) -> Result<(), AttachError> {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
    };
    let capabilities = field("CapEff:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    let (Some(capabilities), Some(limit)) = (capabilities, limit) else { return Ok(()) };
    if capabilities & 1 << CAP_IPC_LOCK != 0 {
        return Ok(());
    }
    let locked = field("VmLck:").and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10;
    let needed = needed.saturating_add(locked);
    if needed <= limit { Ok(()) } else { Err(AttachError::LockLimit { needed, limit }) }
}

/// Fails if the IOMMU behind `container` cannot translate addresses of `ram`.
pub(super) fn reachable(ram: &[RamRange], reach: io::Result<Reach>) -> Result<(), AttachError> {
    // A kernel that does not tell (before 5.4) refuses the mapping itself.
    let Ok(Reach(windows)) = reach else { return Ok(()) };
    let inside = |range: &RamRange| {
        let last = range.guest + (range.size - 1);
        windows.iter().any(|window| window.contains(&range.guest) && window.contains(&last))
    };
    match ram.iter().find(|range| !windows.is_empty() && !inside(range)) {
        None => Ok(()),
        Some(&RamRange { guest, size, .. }) => Err(AttachError::OutOfReach { guest, size }),
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn status(capabilities: &str, locked: u64) -> String {
        format!("Name:\thotbay\nVmLck:\t{locked:8} kB\nCapEff:\t{capabilities}\n")
    }

    #[test]
    fn limit_counts_what_is_locked_already() {
        let plain = status("0000000000000000", 1 << 20);

        assert!(check_lock(GIB, &plain, Some(2 * GIB)).is_ok());
        let refused = check_lock(GIB, &plain, Some(2 * GIB - 1)).unwrap_err();
        assert!(matches!(refused, AttachError::LockLimit { needed, .. } if needed == 2 * GIB));
        assert!(refused.to_string().contains("2147483648"), "{refused}");
    }

    #[test]
    fn no_limit_and_the_capability_let_all_be_locked() {
        assert!(check_lock(GIB, &status("0000000000000000", 0), None).is_ok());
        assert!(check_lock(GIB, &status("0000000000004000", 0), Some(0)).is_ok());
        assert!(check_lock(GIB, "", Some(0)).is_ok(), "a host that does not tell");
    }

    #[test]
    fn ram_lies_in_one_window_of_the_iommu() {
        let ram = |guest, size| RamRange { guest, size, host: NonNull::dangling() };
        let reach = || Ok(Reach(vec![0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1]));

        assert!(reachable(&[ram(0, 3 * GIB), ram(4 * GIB, GIB)], reach()).is_ok());
        assert!(reachable(&[ram((1 << 39) - GIB, GIB)], reach()).is_ok());
        for (guest, size) in [(1 << 39, GIB), (0, 4 * GIB), ((1 << 39) - GIB, GIB + 4096)] {
            let refused = reachable(&[ram(guest, size)], reach()).unwrap_err();
            assert!(matches!(refused, AttachError::OutOfReach { .. }));
        }
        assert!(reachable(&[ram(1 << 50, GIB)], Ok(Reach(Vec::new()))).is_ok());
        assert!(reachable(&[ram(1 << 50, GIB)], Err(io::ErrorKind::Unsupported.into())).is_ok());
    }
}
