//! How many interrupts of passed-through functions the host has taken:
//! `/proc/interrupts` (Linux `fs/proc/interrupts.c`, `kernel/irq/proc.c`), where
//! VFIO's have names such as `vfio-msix[3](0000:01:00.0)`.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use crate::vfio::sys::device::Index;

const FILE: &str = "/proc/interrupts";
/// What VFIO's names begin with (Linux `drivers/vfio/pci/vfio_pci_intrs.c`).
const PREFIX: &str = "vfio-";

/// Interrupts since they were last allocated, by VFIO's names for them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken(BTreeMap<String, u64>);

impl Taken {
    /// As it is now, all processors together.
    ///
    /// # Errors
    /// The file is not there, or not for us to read.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(FILE)?))
    }

    /// Interrupts of `vector` of the function called `name`; none if the host
    /// has not allocated it.
    pub fn of(&self, name: &str, index: Index, vector: u16) -> Option<u64> {
        let line = match index {
            Index::Intx => format!("{PREFIX}intx({name})"),
            Index::Msi => format!("{PREFIX}msi[{vector}]({name})"),
            Index::Msix => format!("{PREFIX}msix[{vector}]({name})"),
        };
        self.0.get(&line).copied()
    }

    /// The first line names the processors; each other has a count for each of
    /// them, then words, at last the names of all who share the interrupt.
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let processors = lines.next().unwrap_or_default().split_whitespace().count();
        let mut taken = BTreeMap::new();
        for line in lines {
            let words = line.split_once(':').map_or("", |(_, words)| words).split_whitespace();
            let counts = words.clone().take(processors).map_while(|word| word.parse::<u64>().ok());
            let count: u64 = counts.fold(0, u64::saturating_add);
            let names = words.map(|word| word.trim_end_matches(','));
            for name in names.filter(|word| word.starts_with(PREFIX)) {
                taken.insert(name.to_owned(), count);
            }
        }
        Self(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "           CPU0       CPU1       \n\
          0:         44          0   IO-APIC   2-edge      timer\n\
         20:          7          5   IO-APIC  20-fasteoi   ehci_hcd:usb1, vfio-intx(0000:02:00.0)\n\
         27:      10000         23   PCI-MSIX-0000:01:00.0   0-edge      vfio-msix[0](0000:01:00.0)\n\
         28:          0          9   PCI-MSIX-0000:01:00.0  12-edge      vfio-msix[12](0000:01:00.0)\n\
         29:          1          0   PCI-MSI-0000:03:00.0    0-edge      vfio-msi[0](0000:03:00.0)\n\
        NMI:          3          4   Non-maskable interrupts\n\
        ERR:          0\n";

    #[test]
    fn counts_of_all_processors_are_added_up() {
        let taken = Taken::parse(TEXT);

        assert_eq!(taken.of("0000:01:00.0", Index::Msix, 0), Some(10023));
        assert_eq!(taken.of("0000:01:00.0", Index::Msix, 12), Some(9));
        assert_eq!(taken.of("0000:03:00.0", Index::Msi, 0), Some(1));
    }

    #[test]
    fn line_that_is_shared_is_found() {
        let taken = Taken::parse(TEXT);

        assert_eq!(taken.of("0000:02:00.0", Index::Intx, 0), Some(12));
    }

    #[test]
    fn what_the_host_has_not_allocated_has_no_count() {
        let taken = Taken::parse(TEXT);

        assert_eq!(taken.of("0000:01:00.0", Index::Msix, 1), None);
        assert_eq!(taken.of("0000:01:00.0", Index::Msi, 0), None);
        assert_eq!(taken.of("0000:01:00.1", Index::Msix, 0), None);
    }

    #[test]
    fn nonsense_is_nothing() {
        for text in ["", "\n", "CPU0\n27 28", ":::\n: :", "CPU0\n1: x vfio-"] {
            assert_eq!(Taken::parse(text).of("0000:01:00.0", Index::Msix, 0), None, "{text:?}");
        }
    }
}
