//! How many file descriptors the process may have, and how much memory it may
//! lock: each interrupt vector in use takes a descriptor, so a function of 1,024
//! vectors would meet the usual soft limit, and a device pins all guest RAM.
#![expect(unsafe_code, reason = "getrlimit(2) and setrlimit(2) have no safe form")]

use std::io;

use libc::__rlimit_resource_t as Resource;

/// Raises the limit of descriptors to what the process may give itself. The soft
/// limit is low only for programs that use `select(2)`, which this one does not.
pub fn raise_descriptors() {
    match raise(libc::RLIMIT_NOFILE, None) {
        Ok((before, limit)) => log::debug!("{limit} descriptors at most, {before} before"),
        Err(error) => log::warn!("the limit of descriptors stays as it is: {error}"),
    }
}

/// Raises the limit of locked memory as far as the process may. Returns whether
/// there is none any more.
///
/// VFIO counts what it pins against this limit unless the process has
/// `CAP_IPC_LOCK`, asked at each mapping (Linux `vfio_lock_acct`). Who may lift the
/// limit does so now, and needs no capability later.
pub fn raise_locked_memory() -> bool {
    let raised = raise(libc::RLIMIT_MEMLOCK, Some(libc::RLIM_INFINITY))
        .or_else(|_| raise(libc::RLIMIT_MEMLOCK, None));
    match raised {
        Ok((_, libc::RLIM_INFINITY)) => true,
        Ok((_, limit)) => {
            let most = limit >> 20;
            log::info!("{most} MiB can be locked (ulimit -l); CAP_IPC_LOCK would lift that");
            false
        }
        Err(error) => {
            log::warn!("the limit of locked memory stays as it is: {error}");
            false
        }
    }
}

/// Raises the soft limit of a resource to the hard one, after raising that to
/// `hard`. Returns the soft limit before and after.
fn raise(resource: Resource, hard: Option<u64>) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a pointer to a local.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let before = limit.rlim_cur;
    limit.rlim_max = hard.unwrap_or(limit.rlim_max);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: a pointer to a local.
    if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((before, limit.rlim_cur))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_is_raised_to_the_hard_one_and_stays() {
        let (before, raised) = raise(libc::RLIMIT_NOFILE, None).unwrap();
        assert!(before <= raised);
        assert_eq!(raise(libc::RLIMIT_NOFILE, None).unwrap(), (raised, raised));
    }

    #[test]
    fn locked_memory_has_no_limit_for_who_may_lift_it() {
        let may = raise(libc::RLIMIT_MEMLOCK, Some(libc::RLIM_INFINITY)).is_ok();

        assert!(raise_locked_memory() || !may);
    }
}
