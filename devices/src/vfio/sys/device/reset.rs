//! Resets: of one function, or of all behind its slot or bus at once (VFIO's hot
//! reset).

use std::io;
use std::os::fd::AsRawFd;

use super::Device;
use crate::vfio::sys::group::Group;

pub(in crate::vfio) const RESET: u32 = 11;
const GET_HOT_RESET_INFO: u32 = 12;
const HOT_RESET: u32 = 13;

/// Words of `vfio_pci_hot_reset_info` before its list: size, flags, count.
const HEADER: usize = 3;
/// Words of each function in the list: its group; segment, bus, device and function.
const ENTRY: usize = 2;
/// More functions than that are not reset together: eight buses full.
const MOST_FUNCTIONS: u32 = 8 * 256;

/// A function that a hot reset would hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    /// Segment, bus, device and function: `0000:01:00.0`.
    pub name: String,
    /// Its IOMMU group.
    pub group: u32,
}

impl Device {
    /// Whether the kernel could reset this function alone when it was opened.
    pub fn is_resettable(&self) -> bool {
        self.resettable
    }

    /// Resets the function, by whatever way the kernel has for it alone. MSI-X
    /// stays enabled across it: take interrupts down first.
    pub fn reset(&self) -> io::Result<()> {
        self.file.call(RESET, &mut []).map(drop)
    }

    /// The functions that a hot reset would hit, this one among them.
    ///
    /// # Errors
    /// `ENODEV` if neither its slot nor its bus can be reset, as on a root bus.
    pub fn hot_reset_reach(&self) -> io::Result<Vec<Affected>> {
        let mut info = vec![0; HEADER];
        match self.hot_reset_info(&mut info) {
            // It says how many there are.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {}
            other => return other.map(|()| affected(&info)),
        }
        let count = usize::try_from(info[2].min(MOST_FUNCTIONS)).unwrap_or(0);
        let mut info = vec![0; HEADER + count * ENTRY];
        self.hot_reset_info(&mut info)?;
        Ok(affected(&info))
    }

    /// Resets all that [`Device::hot_reset_reach`] names. `groups` are theirs, each
    /// once, to show that they are ours.
    pub fn hot_reset(&self, groups: &[&Group]) -> io::Result<()> {
        let count = u32::try_from(groups.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut set = vec![0, 0, count];
        set.extend(groups.iter().map(|group| group.as_raw_fd().cast_unsigned()));
        set[0] = bytes(&set)?;
        self.file.call(HOT_RESET, &mut set).map(drop)
    }

    fn hot_reset_info(&self, info: &mut [u32]) -> io::Result<()> {
        info[0] = bytes(info)?;
        self.file.call(GET_HOT_RESET_INFO, info).map(drop)
    }
}

fn bytes(words: &[u32]) -> io::Result<u32> {
    u32::try_from(size_of_val(words)).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// The list behind the header, as far as both its count and the buffer go.
fn affected(info: &[u32]) -> Vec<Affected> {
    let Some((&[_, _, count], list)) = info.split_first_chunk() else { return Vec::new() };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let function = |&[group, place]: &[u32; ENTRY]| {
        let [low, high, bus, slot] = place.to_le_bytes();
        let segment = u16::from_le_bytes([low, high]);
        let name = format!("{segment:04x}:{bus:02x}:{:02x}.{}", slot >> 3, slot & 7);
        Affected { name, group }
    };
    list.as_chunks().0.iter().take(count).map(function).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, group: u32) -> Affected {
        Affected { name: name.to_owned(), group }
    }

    #[test]
    fn list_says_where_functions_are_and_in_which_groups() {
        let info = [28, 0, 2, 7, 0x0801_0000, 9, 0xfd02_0001];

        let expected = [function("0000:01:01.0", 7), function("0001:02:1f.5", 9)];
        assert_eq!(affected(&info), expected);
    }

    #[test]
    fn count_past_the_buffer_adds_nothing() {
        assert_eq!(affected(&[20, 0, 4096, 7, 0x0900_0000]).len(), 1);
        assert_eq!(affected(&[12, 0, 1]), []);
        assert_eq!(affected(&[12, 0]), []);
    }

    #[test]
    fn count_of_the_kernel_s_ends_the_list() {
        assert_eq!(affected(&[28, 0, 1, 7, 0, 8, 0]).len(), 1);
    }
}
