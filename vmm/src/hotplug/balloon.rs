//! The guest's balloon, as the event loop asks for its size and sets it.

use std::fmt::Display;

use api::request::{Fault, Status, code};

use super::{Bay, Device};
use crate::config::device::DeviceError;
use devices::virtio::balloon::{Balloon, PAGE};

/// Why a balloon has the size that it had.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// There is nothing to be resized.
    #[error("this VM has no balloon; give it one with balloon of vm.create")]
    NoBalloon,
    /// No size for it.
    #[error(transparent)]
    Size(#[from] DeviceError),
}

impl ResizeError {
    /// What a client is told; `asked` says what could not be done.
    pub fn fault(&self, asked: impl Display) -> Fault {
        let (status, code) = match self {
            Self::NoBalloon => (Status::NotFound, code::DEVICE_NOT_FOUND),
            Self::Size(_) => (Status::BadRequest, code::DEVICE_BAD_REQUEST),
        };
        Fault::new(status, code, asked, self)
    }
}

impl Bay {
    /// Has the guest's driver come to so many pages, of a guest with so many bytes of `ram`. It may take its time, and
    /// need not get there.
    pub fn resize_balloon(&mut self, pages: u32, ram: u64) -> Result<(), ResizeError> {
        let found = self.devices.values_mut().find(|device| device.balloon().is_some());
        let device = found.ok_or(ResizeError::NoBalloon)?;
        if let Some(spec) = device.spec.balloon() {
            spec.resize(pages, ram)?;
        }
        if let Some((own, balloon)) = device.function().and_then(|function| function.balloon()) {
            balloon.set_target(pages);
            own.configuration_changes();
        }
        Ok(())
    }

    /// Bytes that the guest's driver says are in its balloon.
    pub fn ballooned(&self) -> u64 {
        let balloons = self.devices.values().filter_map(Device::balloon);
        balloons.map(|balloon| u64::from(balloon.actual()) * PAGE).sum()
    }
}

impl Device {
    fn balloon(&self) -> Option<&Balloon> {
        self.function()?.balloon().map(|(_, balloon)| balloon)
    }
}
