//! Ethernet addresses.

use std::fmt;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `02:00:00:00:00:01`; none if it is something else, or the address of a group.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            let digits = part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits)?;
        }
        let single = bytes[0] & 1 == 0 && bytes != [0; 6];
        (parts.next().is_none() && single).then_some(Self(bytes))
    }

    /// A local one (its second bit says so) of these bits.
    pub fn local(bits: u64) -> Self {
        let [_, _, bytes @ ..] = bits.to_be_bytes();
        let mut mac = bytes;
        mac[0] = mac[0] & !1 | 2;
        Self(mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_read_and_written_and_never_a_group_s() {
        let one = Mac([2, 0, 0, 0, 0, 1]);
        assert_eq!(
            (Mac::parse("02:00:00:00:00:01"), one.to_string().as_str()),
            (Some(one), "02:00:00:00:00:01")
        );
        for wrong in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "01:00:00:00:00:00"]
        {
            assert_eq!(Mac::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Mac::parse("02:00:00:00:00:+1"), None);
        assert_eq!(Mac::parse("00:00:00:00:00:00"), None);
        assert_eq!(Mac::local(u64::MAX).0[0], 0xfe);
        assert_eq!(Mac::local(0).to_string(), "02:00:00:00:00:00");
    }
}
