//! Common configuration as pure state (virtio 1.2, 4.1.4.3): the driver writes, and
//! what follows comes out.
//!
//! ```text
//! 0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK (if the features will do) -> DRIVER_OK: Activate
//!      any state, 0 written: Reset; the status reads as before until that is done
//! ```

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};

/// [`Status`] bit: what has been negotiated is accepted.
const FEATURES_OK: u8 = bit(VIRTIO_CONFIG_S_FEATURES_OK);
const DRIVER_OK: u8 = bit(VIRTIO_CONFIG_S_DRIVER_OK);
/// Only the device sets it.
pub(super) const NEEDS_RESET: u8 = bit(VIRTIO_CONFIG_S_NEEDS_RESET);
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

#[expect(clippy::cast_possible_truncation, reason = "a status is one byte")]
const fn bit(value: u32) -> u8 {
    value as u8
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    NumQueues,
    Status,
    Generation,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueNotifyOff,
    Descriptors(Half),
    Driver(Half),
    Device(Half),
    /// Those of features that are not offered; they read as zeros.
    NotOffered,
}

/// Of a register of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Low,
    High,
}

/// What a driver's write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Serve the queues that are enabled.
    Activate,
    /// Stop, then call [`Registers::reset`].
    Reset,
}

/// One queue as the driver has set it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    /// Entries, at most those offered.
    pub(super) size: u16,
    /// It is to be used.
    pub(super) enabled: bool,
    /// Guest-physical address of the descriptor table.
    pub(super) descriptors: u64,
    /// Of the ring that the driver writes.
    pub(super) driver: u64,
    /// Of the ring that the device writes.
    pub(super) device: u64,
}

/// The registers.
#[derive(Clone, Debug)]
pub(super) struct Registers {
    offered: u64,
    sizes: Box<[u16]>,
    state: State,
}

/// What a reset clears.
#[derive(Clone, Debug)]
struct State {
    accepted: u64,
    device_select: u32,
    driver_select: u32,
    status: u8,
    queue_select: u16,
    queues: Box<[Setup]>,
    resetting: bool,
}

impl Field {
    /// The register at `offset`. Each is accessed whole, those of 64 bits in halves (4.1.3.1).
    pub(super) fn at(offset: u64, length: usize) -> Option<Self> {
        Some(match (offset, length) {
            (0x00, 4) => Self::DeviceFeatureSelect,
            (0x04, 4) => Self::DeviceFeature,
            (0x08, 4) => Self::DriverFeatureSelect,
            (0x0c, 4) => Self::DriverFeature,
            (0x10, 2) => Self::ConfigVector,
            (0x12, 2) => Self::NumQueues,
            (0x14, 1) => Self::Status,
            (0x15, 1) => Self::Generation,
            (0x16, 2) => Self::QueueSelect,
            (0x18, 2) => Self::QueueSize,
            (0x1a, 2) => Self::QueueVector,
            (0x1c, 2) => Self::QueueEnable,
            (0x1e, 2) => Self::QueueNotifyOff,
            (0x20, 4) => Self::Descriptors(Half::Low),
            (0x24, 4) => Self::Descriptors(Half::High),
            (0x28, 4) => Self::Driver(Half::Low),
            (0x2c, 4) => Self::Driver(Half::High),
            (0x30, 4) => Self::Device(Half::Low),
            (0x34, 4) => Self::Device(Half::High),
            (0x38 | 0x3a, 2) => Self::NotOffered,
            _ => return None,
        })
    }
}

impl Registers {
    /// As after power-on; `sizes` are the most entries of each queue.
    pub(super) fn new(features: u64, sizes: &[u16]) -> Self {
        let sizes: Box<[u16]> = sizes.into();
        Self { offered: features | VERSION_1, state: State::new(&sizes), sizes }
    }

    /// The driver reads `field`. Vectors are not known here and read as zero.
    pub(super) fn read(&self, field: Field) -> u32 {
        let state = &self.state;
        let queue = state.queues.get(usize::from(state.queue_select));
        let of_queue = |value: fn(&Setup) -> u64| queue.map_or(0, value);
        match field {
            Field::DeviceFeatureSelect => state.device_select,
            Field::DeviceFeature => word(self.offered, state.device_select),
            Field::DriverFeatureSelect => state.driver_select,
            Field::DriverFeature => word(state.accepted, state.driver_select),
            Field::NumQueues => u32::try_from(self.sizes.len()).unwrap_or(u32::MAX),
            Field::Status => state.status.into(),
            Field::QueueSelect => state.queue_select.into(),
            Field::QueueSize => queue.map_or(0, |queue| queue.size.into()),
            Field::QueueEnable => queue.map_or(0, |queue| queue.enabled.into()),
            Field::QueueNotifyOff => queue.map_or(0, |_| state.queue_select.into()),
            Field::Descriptors(half) => half.of(of_queue(|queue| queue.descriptors)),
            Field::Driver(half) => half.of(of_queue(|queue| queue.driver)),
            Field::Device(half) => half.of(of_queue(|queue| queue.device)),
            Field::ConfigVector | Field::QueueVector | Field::Generation | Field::NotOffered => 0,
        }
    }

    /// The driver writes `field`. What it may not write there and then changes nothing.
    pub(super) fn write(&mut self, field: Field, value: u32) -> Option<Effect> {
        let [low, high, ..] = value.to_le_bytes();
        let short = u16::from_le_bytes([low, high]);
        match field {
            Field::Status => return self.write_status(low),
            Field::DeviceFeatureSelect => self.state.device_select = value,
            Field::DriverFeatureSelect => self.state.driver_select = value,
            Field::QueueSelect => self.state.queue_select = short,
            Field::DriverFeature => self.state.accept(value),
            Field::QueueSize => self.set_up(|queue, most| {
                if short.is_power_of_two() && short <= most {
                    queue.size = short;
                }
            }),
            Field::QueueEnable => self.set_up(|queue, _| queue.enabled = short == 1),
            Field::Descriptors(half) => {
                self.set_up(|queue, _| half.put(&mut queue.descriptors, value));
            }
            Field::Driver(half) => self.set_up(|queue, _| half.put(&mut queue.driver, value)),
            Field::Device(half) => self.set_up(|queue, _| half.put(&mut queue.device, value)),
            Field::DeviceFeature
            | Field::ConfigVector
            | Field::NumQueues
            | Field::Generation
            | Field::QueueVector
            | Field::QueueNotifyOff
            | Field::NotOffered => {}
        }
        None
    }

    /// The queue whose registers are shown, if there is one.
    pub(super) fn selected(&self) -> Option<usize> {
        let index = usize::from(self.state.queue_select);
        (index < self.sizes.len()).then_some(index)
    }

    /// What has been negotiated.
    pub(super) fn features(&self) -> u64 {
        self.state.accepted
    }

    /// Every queue, with the most entries it can have.
    pub(super) fn queues(&self) -> impl Iterator<Item = (u16, &Setup)> {
        self.sizes.iter().copied().zip(&self.state.queues)
    }

    /// A reset has been asked for and not been done.
    pub(super) fn is_resetting(&self) -> bool {
        self.state.resetting
    }

    /// All is as after power-on.
    pub(super) fn reset(&mut self) {
        self.state = State::new(&self.sizes);
    }

    fn write_status(&mut self, value: u8) -> Option<Effect> {
        let state = &mut self.state;
        if value == 0 {
            state.resetting = state.status != 0;
            return Some(Effect::Reset);
        }
        // The driver sets bits, and clears none but all (2.1.1).
        let mut new = value & !state.status & !NEEDS_RESET;
        if state.resetting {
            return None;
        }
        let will_do = state.accepted & !self.offered == 0 && state.accepted & VERSION_1 != 0;
        if !will_do {
            new &= !FEATURES_OK;
        }
        if (state.status | new) & FEATURES_OK == 0 {
            new &= !DRIVER_OK;
        }
        state.status |= new;
        (new & DRIVER_OK != 0).then_some(Effect::Activate)
    }

    /// Changes the queue that is shown, which has so many entries at most. One that is
    /// enabled stays as it is (4.1.4.3.2).
    fn set_up(&mut self, change: impl FnOnce(&mut Setup, u16)) {
        let index = usize::from(self.state.queue_select);
        let queue = self.state.queues.get_mut(index).filter(|queue| !queue.enabled);
        if let (Some(queue), Some(most)) = (queue, self.sizes.get(index)) {
            change(queue, *most);
        }
    }
}

impl State {
    fn new(sizes: &[u16]) -> Self {
        let queue = |&size| Setup { size, enabled: false, descriptors: 0, driver: 0, device: 0 };
        Self {
            accepted: 0,
            device_select: 0,
            driver_select: 0,
            status: 0,
            queue_select: 0,
            queues: sizes.iter().map(queue).collect(),
            resetting: false,
        }
    }

    /// What was accepted stays (2.2.1).
    fn accept(&mut self, value: u32) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        match self.driver_select {
            0 => Half::Low.put(&mut self.accepted, value),
            1 => Half::High.put(&mut self.accepted, value),
            _ => {}
        }
    }
}

impl Half {
    fn of(self, value: u64) -> u32 {
        word(value, if self == Self::Low { 0 } else { 1 })
    }

    fn put(self, whole: &mut u64, part: u32) {
        *whole = match self {
            Self::Low => *whole & !0xffff_ffff | u64::from(part),
            Self::High => *whole & 0xffff_ffff | u64::from(part) << 32,
        };
    }
}

/// Doubleword `index` of `value`; there are two.
fn word(value: u64, index: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match index {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
