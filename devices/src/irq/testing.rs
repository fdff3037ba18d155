//! What a function without interrupts is lent, for tests and fuzz targets of the rest of it.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::irq::{Change, Delivery, Unapplied, Vectors};

/// No vectors.
#[derive(Clone, Copy, Debug)]
pub struct NoVectors;

impl Vectors for NoVectors {
    fn count(&self) -> u16 {
        0
    }

    fn apply(&mut self, _changes: &[Change]) -> Result<(), Vec<Unapplied>> {
        Ok(())
    }

    fn trigger(&mut self, _vector: u16) -> io::Result<Arc<EventFd>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn pending(&self, _vector: u16) -> bool {
        false
    }

    fn forget(&mut self, _vector: u16) {}

    fn delivery(&self, _vector: u16) -> Delivery {
        Delivery::default()
    }

    fn reset(&mut self) {}

    fn give_back(&mut self) {}
}
