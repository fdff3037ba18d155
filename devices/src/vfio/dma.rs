//! Who lets a function reach guest RAM.

use std::sync::Arc;

use crate::vfio::iommu::Attachment;
use crate::vfio::user::Lent;

/// Guest RAM is within a function's reach for as long as this lives.
pub enum Dma {
    /// The host's IOMMU maps it for the function's group.
    Group(Arc<Attachment>),
    /// The server that emulates the function has it.
    Server(Lent),
}

impl Dma {
    /// The function's group, if it is one of the host's.
    pub fn group(&self) -> Option<&Arc<Attachment>> {
        match self {
            Self::Group(group) => Some(group),
            Self::Server(_) => None,
        }
    }
}
