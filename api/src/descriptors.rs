//! Descriptors that somebody hands over: a client with its request (`SCM_RIGHTS`), or whoever
//! started us (`fd=N`). In JSON a number stands in for each, and says nothing: no number that a
//! client names is ever taken for a descriptor of this process.

#![expect(
    unsafe_code,
    reason = "a descriptor number from the command line becomes an owned descriptor"
)]

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most that come with one request.
pub const MOST: usize = 32;

/// What stands in for a descriptor in JSON, as with Cloud Hypervisor.
const STAND_IN: i32 = -1;

/// Descriptors as a body has them. Two are equal if they are the same.
#[derive(Debug, Clone)]
pub enum Fds {
    /// So many are to come with the request.
    Promised(usize),
    /// These numbers of this process, as its command line says.
    Numbers(Vec<RawFd>),
    /// Here they are.
    Here(Handed),
}

/// Descriptors that are here. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Handed(Arc<[OwnedFd]>);

impl Fds {
    /// How many.
    pub fn count(&self) -> usize {
        match self {
            Self::Promised(count) => *count,
            Self::Numbers(numbers) => numbers.len(),
            Self::Here(handed) => handed.0.len(),
        }
    }

    /// Takes over those of the command line, before anything else opens descriptors.
    ///
    /// # Errors
    /// One is not open, or another option has it. Those that were taken are closed.
    pub fn take_over(&mut self) -> io::Result<()> {
        if let Self::Numbers(numbers) = self {
            let taken = numbers.iter().map(|number| inherited(*number));
            *self = Self::Here(taken.collect::<io::Result<Vec<_>>>()?.into());
        }
        Ok(())
    }
}

impl Handed {
    /// Them, in the order in which they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(std::os::fd::AsFd::as_fd)
    }

    /// Their numbers, for as long as this lives.
    pub(crate) fn numbers(&self) -> Vec<RawFd> {
        self.0.iter().map(AsRawFd::as_raw_fd).collect()
    }
}

impl From<Vec<OwnedFd>> for Handed {
    fn from(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors.into())
    }
}

impl PartialEq for Handed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Handed {}

impl PartialEq for Fds {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Promised(one), Self::Promised(two)) => one == two,
            (Self::Numbers(one), Self::Numbers(two)) => one == two,
            (Self::Here(one), Self::Here(two)) => one == two,
            (Self::Promised(_) | Self::Numbers(_) | Self::Here(_), _) => false,
        }
    }
}

impl Eq for Fds {}

impl Serialize for Fds {
    fn serialize<S: Serializer>(&self, sink: S) -> Result<S::Ok, S::Error> {
        let mut list = sink.serialize_seq(Some(self.count()))?;
        for _ in 0..self.count() {
            list.serialize_element(&STAND_IN)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Fds {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        Ok(Self::Promised(Vec::<i32>::deserialize(source)?.len()))
    }
}

/// Takes over a descriptor that whoever started us has passed on. Those that this process opened,
/// or has taken over, are closed on exec, and cannot be taken.
///
/// # Errors
/// It is not open, or something of ours.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: reads and sets a flag of a descriptor, if it is one; no memory is involved.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        let why = "it was not passed on to this process, or is given twice";
        return Err(io::Error::new(ErrorKind::InvalidInput, why));
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, nobody of this process has it, and whoever named it on the command line
    // gave it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    /// A descriptor as another program would have passed it on.
    fn passed_on() -> RawFd {
        let file = tempfile::tempfile().unwrap().into_raw_fd();
        // SAFETY: sets a flag; no memory is involved.
        assert_eq!(unsafe { libc::fcntl(file, libc::F_SETFD, 0) }, 0);
        file
    }

    #[test]
    fn what_was_passed_on_is_taken_once() {
        let fd = passed_on();
        let mut one = Fds::Numbers(vec![fd]);
        let mut two = one.clone();

        one.take_over().unwrap();
        let refused = two.take_over().unwrap_err();

        assert!(refused.to_string().contains("given twice"), "{refused}");
        let Fds::Here(handed) = one else { panic!("{one:?} was not taken over") };
        assert_eq!(handed.numbers(), [fd]);
    }

    #[test]
    fn what_is_ours_or_not_open_is_not_taken() {
        let ours = tempfile::tempfile().unwrap();

        assert_eq!(inherited(ours.as_raw_fd()).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(inherited(54_321).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn numbers_in_json_say_how_many_and_nothing_else() {
        let fds: Fds = serde_json::from_str("[0, 1, -7]").unwrap();
        let here = Fds::Here(vec![tempfile::tempfile().unwrap().into()].into());

        assert_eq!(fds, Fds::Promised(3));
        assert_eq!(serde_json::to_string(&here).unwrap(), "[-1]");
        assert!(serde_json::from_str::<Fds>(r#"["0"]"#).is_err());
    }

    #[test]
    fn descriptors_are_equal_to_themselves() {
        let file = || Fds::Here(vec![tempfile::tempfile().unwrap().into()].into());
        let (one, two) = (file(), file());

        assert_eq!(one, one.clone());
        assert_ne!(one, two);
        assert_ne!(one, Fds::Promised(1));
    }
}
