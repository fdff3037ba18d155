//! What the host would not give, kept for people until it does: an error's name,
//! and what to do about it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::io;

/// Something of a function's interrupts that the host has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    step: Step,
    errno: i32,
}

/// How far an interrupt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The host would not turn the kind of interrupt on.
    Index,
    /// The host would not lead the vector to an eventfd.
    Wire,
    /// The eventfd leads nowhere.
    Delivery,
}

/// What is refused at the moment.
#[derive(Default)]
pub(super) struct Refusals {
    /// The kind of interrupt that the guest has on.
    pub(super) index: Option<Refusal>,
    /// Its vectors.
    pub(super) vectors: BTreeMap<u16, Refusal>,
}

impl Refusal {
    pub(super) fn new(step: Step, error: &io::Error) -> Self {
        // Only checks of our own have no number: of an argument that makes no sense.
        Self { step, errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
    }

    /// The error's name in `errno(3)`.
    pub fn name(&self) -> Cow<'static, str> {
        let known = NAMES.iter().find(|(errno, _)| *errno == self.errno);
        known.map_or_else(|| self.errno.to_string().into(), |(_, name)| (*name).into())
    }
}

const NAMES: [(i32, &str); 14] = [
    (libc::EACCES, "EACCES"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::EBUSY, "EBUSY"),
    (libc::EEXIST, "EEXIST"),
    (libc::EFAULT, "EFAULT"),
    (libc::EINVAL, "EINVAL"),
    (libc::EIO, "EIO"),
    (libc::EMFILE, "EMFILE"),
    (libc::ENFILE, "ENFILE"),
    (libc::ENODEV, "ENODEV"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::ENOTTY, "ENOTTY"),
    (libc::EPERM, "EPERM"),
];

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.errno, self.step) {
            (libc::ENOSPC, Step::Delivery) => f.write_str(
                "hotbay's user has no epoll watch left: raise fs.epoll.max_user_watches",
            ),
            (libc::ENOSPC, Step::Index | Step::Wire) => f.write_str(
                "the host has no interrupt vector left: bring processors online or remove devices",
            ),
            (libc::EMFILE, _) => f.write_str(
                "hotbay has no file descriptor left: raise its limit (prlimit --nofile)",
            ),
            (libc::ENFILE, _) => {
                f.write_str("the host has no file descriptor left: raise fs.file-max")
            }
            (errno, _) => write!(f, "the host: {}", io::Error::from_raw_os_error(errno)),
        }?;
        f.write_str(match self.step {
            Step::Index => "; it is tried again when the guest next enables it",
            Step::Wire | Step::Delivery => "; it is tried again when the guest next unmasks it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(step: Step, errno: i32) -> (String, String) {
        let refusal = Refusal::new(step, &io::Error::from_raw_os_error(errno));
        (refusal.name().into_owned(), refusal.to_string())
    }

    #[test]
    fn refusal_has_a_name_and_a_remedy() {
        let (name, text) = refusal(Step::Wire, libc::ENOSPC);
        assert_eq!(name, "ENOSPC");
        assert!(text.contains("bring processors online") && text.ends_with("unmasks it"), "{text}");
        let (name, text) = refusal(Step::Index, libc::EMFILE);
        assert_eq!(name, "EMFILE");
        assert!(text.contains("raise its limit") && text.ends_with("enables it"), "{text}");
        assert!(refusal(Step::Delivery, libc::ENOSPC).1.contains("max_user_watches"));
    }

    #[test]
    fn error_without_a_name_keeps_its_number_and_one_without_a_number_is_ours() {
        assert_eq!(refusal(Step::Wire, libc::EXDEV).0, libc::EXDEV.to_string());
        let ours = Refusal::new(Step::Wire, &io::ErrorKind::InvalidInput.into());
        assert_eq!(ours.name(), "EINVAL");
    }
}
