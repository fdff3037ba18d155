//! Devices of the first PCs that every guest still knows how to drive.

pub mod i8042;
pub mod serial;
