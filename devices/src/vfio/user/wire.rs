//! Messages as bytes: a header of 16 and what follows it. Numbers are in the host's
//! byte order.

/// Bytes of a header.
pub(super) const HEADER: usize = 16;
/// Most bytes that one message moves, unless the other side takes fewer: the
/// protocol's own default.
pub(super) const MOST_DATA: usize = 1 << 20;
/// What stands before the data of a read or write: an address or offset, and counts.
pub(super) const ACCESS: usize = 16;
/// No message is longer.
pub(super) const LONGEST: usize = HEADER + ACCESS + MOST_DATA;
/// Descriptors that we take in one message.
pub(super) const MOST_DESCRIPTORS: usize = 8;

/// Bits of the header's flags: what kind of message it is.
const TYPE: u32 = 0xf;
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// What is asked. Those that neither side may send us or is sent by us are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Version = 1,
    DmaMap = 2,
    DmaUnmap = 3,
    DeviceInfo = 4,
    RegionInfo = 5,
    IrqInfo = 7,
    SetIrqs = 8,
    RegionRead = 9,
    RegionWrite = 10,
    Reset = 13,
}

impl Command {
    /// What the specification calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Version => "VERSION",
            Self::DmaMap => "DMA_MAP",
            Self::DmaUnmap => "DMA_UNMAP",
            Self::DeviceInfo => "DEVICE_GET_INFO",
            Self::RegionInfo => "DEVICE_GET_REGION_INFO",
            Self::IrqInfo => "DEVICE_GET_IRQ_INFO",
            Self::SetIrqs => "DEVICE_SET_IRQS",
            Self::RegionRead => "REGION_READ",
            Self::RegionWrite => "REGION_WRITE",
            Self::Reset => "DEVICE_RESET",
        }
    }
}

/// Commands of a server.
pub(super) const DMA_READ: u16 = 11;
pub(super) const DMA_WRITE: u16 = 12;

/// The first 16 bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u16,
    pub(super) command: u16,
    /// Bytes of the message, with these.
    pub(super) size: usize,
    pub(super) flags: u32,
    pub(super) error: u32,
}

/// What a header begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody asks, and may not care for an answer.
    Command { answered: bool },
    /// An answer, or the errno in its place.
    Reply(Result<(), i32>),
}

impl Header {
    /// Of a command with a body of so many bytes.
    pub(super) fn command(id: u16, command: Command, body: usize) -> Self {
        Self { id, command: command as u16, size: HEADER + body, flags: 0, error: 0 }
    }

    /// Of the answer to this, with a body of so many bytes.
    pub(super) fn reply(self, body: usize) -> Self {
        Self { size: HEADER + body, flags: REPLY, error: 0, ..self }
    }

    /// Of the answer to this that it has failed.
    pub(super) fn refusal(self, errno: i32) -> Self {
        Self { size: HEADER, flags: REPLY | ERROR, error: errno.unsigned_abs(), ..self }
    }

    /// Takes a header apart. `None` if it begins no message that there could be.
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let size = usize::try_from(word(4)).ok()?;
        let fits = (HEADER..=LONGEST).contains(&size) && word(8) & TYPE <= REPLY;
        let (id, command, flags, error) = (half(0), half(2), word(8), word(12));
        fits.then_some(Self { id, command, size, flags, error })
    }

    /// What it begins.
    pub(super) fn kind(self) -> Kind {
        if self.flags & TYPE == 0 {
            return Kind::Command { answered: self.flags & NO_REPLY == 0 };
        }
        // The errno may be missing.
        let errno = i32::try_from(self.error).ok().filter(|errno| *errno > 0);
        let failed = self.flags & ERROR != 0;
        Kind::Reply(if failed { Err(errno.unwrap_or(libc::EIO)) } else { Ok(()) })
    }

    /// The message of this header and `body`.
    pub(super) fn message(self, body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(self.size).unwrap_or(u32::MAX);
        let halves = [self.id, self.command].map(u16::to_ne_bytes).concat();
        let words = [size, self.flags, self.error].map(u32::to_ne_bytes).concat();
        [&halves, &words, body].concat()
    }
}

/// Words as bytes.
pub(super) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Bytes as words; what is left of the last is dropped.
pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word))
}

/// The number at `at`.
pub(super) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|long| u64::from_ne_bytes(*long))
}

/// What stands before the data of a region's read or write.
pub(super) fn region_access(offset: u64, region: u32, count: u32) -> [u8; ACCESS] {
    let (mut access, at) = ([0; ACCESS], offset.to_ne_bytes());
    access[..8].copy_from_slice(&at);
    access[8..12].copy_from_slice(&region.to_ne_bytes());
    access[12..].copy_from_slice(&count.to_ne_bytes());
    access
}

/// The number called `name` of a JSON object, wherever in it. That is all we want to know
/// of the one text in the protocol; one that is no JSON says nothing, or what it says.
pub(super) fn number(text: &str, name: &str) -> Option<u64> {
    let after = text.split(&format!("\"{name}\"")).nth(1)?.trim_start();
    let value = after.strip_prefix(':')?.trim_start();
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    value[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_the_way_out_and_in() {
        let header = Header::command(7, Command::RegionRead, 16);
        let message = header.message(&[1; 16]);

        assert_eq!(message.len(), 32);
        assert_eq!(message[..8], [7, 0, 9, 0, 32, 0, 0, 0]);
        assert_eq!(Header::parse(message.first_chunk().unwrap()), Some(header));
        assert_eq!(header.kind(), Kind::Command { answered: true });
    }

    #[test]
    fn answers_carry_the_number_and_the_command_of_what_they_answer() {
        let asked = Header::command(9, Command::Reset, 0);

        let (answer, refusal) = (asked.reply(4), asked.refusal(libc::EINVAL));

        assert_eq!((answer.id, answer.command, answer.size), (9, 13, 20));
        assert_eq!(answer.kind(), Kind::Reply(Ok(())));
        assert_eq!(refusal.kind(), Kind::Reply(Err(libc::EINVAL)));
    }

    #[test]
    fn refusal_without_an_errno_is_one_all_the_same() {
        for errno in [0, u32::MAX] {
            let header =
                Header { error: errno, ..Header::command(1, Command::Reset, 0).refusal(1) };
            assert_eq!(header.kind(), Kind::Reply(Err(libc::EIO)));
        }
    }

    #[test]
    fn what_no_message_begins_with_is_no_header() {
        let with = |at: usize, word: u32| {
            let mut bytes = Header::command(1, Command::Reset, 0).message(&[]);
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
            Header::parse(bytes.first_chunk().unwrap())
        };
        assert_eq!(with(4, 15), None, "shorter than itself");
        assert_eq!(with(4, u32::MAX), None, "longer than any message");
        assert_eq!(with(8, 2), None, "neither command nor reply");
        assert!(with(4, u32::try_from(LONGEST).unwrap()).is_some());
    }

    #[test]
    fn number_is_found_by_its_name() {
        let text = r#"{"capabilities":{"max_msg_fds" : 16,"max_data_xfer_size":4096}}"#;

        assert_eq!(number(text, "max_msg_fds"), Some(16));
        assert_eq!(number(text, "max_data_xfer_size"), Some(4096));
        for none in ["", "{}", r#"{"max_msg_fds":"8"}"#, r#"{"max_msg_fds"#, r#""max_msg_fds":-1"#]
        {
            assert_eq!(number(none, "max_msg_fds"), None, "{none}");
        }
        assert_eq!(number(r#""max_msg_fds":99999999999999999999999"#, "max_msg_fds"), None);
    }
}
