//! Guest RAM made reachable for devices.

use std::io;

use vfio_ioctls::{VfioContainer, VfioError};

use crate::memory::RamRange;

/// Pins `range` and maps it at its guest-physical address for every device in
/// the container. It stays mapped until the container closes.
pub fn map(container: &VfioContainer, range: &RamRange) -> io::Result<()> {
    let size = usize::try_from(range.size).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: guest RAM outlives the container, and no reference to it is ever made:
    // guests and devices write it at any time.
    let mapped = unsafe { container.vfio_dma_map(range.guest, size, range.host.as_ptr()) };
    mapped.map_err(|error| {
        if let VfioError::IommuDmaMap(cause) = &error {
            return io::Error::from_raw_os_error(cause.errno());
        }
        io::Error::other(error)
    })
}
