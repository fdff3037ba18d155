//! What a Linux guest has counted: rows of its `/proc/interrupts`, a number for each processor.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::wait::{Look, until};

/// From an event of the device to the guest's count, under emulation and under load.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// An MSI-X vector that a driver has requested, by the function's address in the guest. Linux 6.12
    /// names function and vector; 6.1 does not.
    Vector(String, u16),
    /// Interrupt 0xf2, which a guest that runs no guests never gets: whoever sends it is counted, and
    /// nothing else happens.
    Posted,
    /// Interrupt 0xf0, the same.
    Nested,
}

impl Row {
    /// The processors' interrupt that a message must carry to be counted here, if it is fixed.
    pub fn interrupt(&self) -> Option<u8> {
        match self {
            Self::Vector(..) => None,
            Self::Posted => Some(0xf2),
            Self::Nested => Some(0xf0),
        }
    }

    /// What each processor counted so far.
    pub fn each(&self, guest: &mut Guest) -> Result<Vec<u64>> {
        let row = guest.run(&format!("grep -E '{}' /proc/interrupts", self.pattern()))?;
        let counts = row.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
        Ok(counts)
    }

    /// What all processors counted so far, together.
    pub fn count(&self, guest: &mut Guest) -> Result<u64> {
        Ok(self.each(guest)?.iter().sum())
    }

    /// Waits until all processors together have counted `expected`; fails if it was more.
    pub fn reaches(&self, guest: &mut Guest, expected: u64) -> Result {
        until(&format!("{self} counted {expected} times"), ARRIVAL_LIMIT, || {
            match self.count(guest)? {
                now if now > expected => {
                    Err(Error::Unexpected(format!("{self}: {now} instead of {expected}")))
                }
                now if now == expected => Ok(Look::Holds(())),
                now => Ok(Look::NotYet(now.to_string())),
            }
        })
    }

    /// The command that prints what all processors counted so far, together.
    pub fn counting(&self) -> String {
        format!(
            "awk '/{}/ {{ for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i }} END {{ print n + 0 }}' /proc/interrupts",
            self.pattern()
        )
    }

    /// Number that Linux has given the interrupt.
    pub fn irq(&self, guest: &mut Guest) -> Result<u32> {
        let row = guest.run(&format!("grep -E '{}' /proc/interrupts", self.pattern()))?;
        let number = row.trim().split(':').next().and_then(|number| number.parse().ok());
        number.ok_or_else(|| Error::Unexpected(format!("{self} has no number: {row}")))
    }

    fn pattern(&self) -> String {
        match self {
            Self::Vector(bdf, vector) => format!("PCI-MSIX-{bdf} +{vector}-edge"),
            Self::Posted => "^ *PIN:".to_owned(),
            Self::Nested => "^ *NPI:".to_owned(),
        }
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vector(bdf, vector) => write!(f, "vector {vector} of {bdf}"),
            Self::Posted => f.write_str("interrupt 0xf2"),
            Self::Nested => f.write_str("interrupt 0xf0"),
        }
    }
}
