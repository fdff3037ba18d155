//! How many file descriptors the process may have: each interrupt vector in use
//! takes one, so a function of 1,024 vectors would meet the usual soft limit.
#![expect(unsafe_code, reason = "getrlimit(2) and setrlimit(2) have no safe form")]

use std::io;

/// Raises the limit of descriptors to what the process may give itself. The soft
/// limit is low only for programs that use `select(2)`, which this one does not.
pub fn raise_descriptors() {
    match raise() {
        Ok((before, limit)) => log::debug!("{limit} descriptors at most, {before} before"),
        Err(error) => log::warn!("the limit of descriptors stays as it is: {error}"),
    }
}

/// The soft limit before and after.
fn raise() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a pointer to a local.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: a pointer to a local.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((before, limit.rlim_cur))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_is_raised_to_the_hard_one_and_stays() {
        let (before, raised) = raise().unwrap();
        assert!(before <= raised);
        assert_eq!(raise().unwrap(), (raised, raised));
    }
}
