//! What a card's two sides leave to each other: checksums, and cutting up what is too long for a wire.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO,
};

use super::bit;

/// What the host's kernel calls the features of a reader (`linux/if_tun.h`).
const FLAGS: [(u32, u32); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, 0x01),
    (VIRTIO_NET_F_GUEST_TSO4, 0x02),
    (VIRTIO_NET_F_GUEST_TSO6, 0x04),
    (VIRTIO_NET_F_GUEST_UFO, 0x10),
];

/// Features of a reader that takes packets longer than a wire does.
const LONG: [u32; 3] = [VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO];

/// What the guest may leave to the host, and the host to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums.
    pub csum: bool,
    /// Cutting TCP into packets; wants checksums.
    pub tso: bool,
    /// Cutting UDP into fragments; wants checksums.
    pub ufo: bool,
}

impl Offloads {
    /// As features of the device.
    pub(super) fn features(self) -> u64 {
        let mut features = 0;
        if !self.csum {
            return features;
        }
        features |= bit(VIRTIO_NET_F_CSUM) | bit(VIRTIO_NET_F_GUEST_CSUM);
        if self.tso {
            features |= bit(VIRTIO_NET_F_HOST_TSO4) | bit(VIRTIO_NET_F_HOST_TSO6);
            features |= bit(VIRTIO_NET_F_GUEST_TSO4) | bit(VIRTIO_NET_F_GUEST_TSO6);
        }
        if self.ufo {
            features |= bit(VIRTIO_NET_F_HOST_UFO) | bit(VIRTIO_NET_F_GUEST_UFO);
        }
        features
    }
}

/// What a tap's packets may be for a driver that has agreed to `features` (`TUN_F_*`).
pub(super) fn flags(features: u64) -> u32 {
    let agreed = FLAGS.iter().filter(|(feature, _)| features & bit(*feature) != 0);
    agreed.fold(0, |flags, (_, flag)| flags | flag)
}

/// Whether they may be longer than a wire takes.
pub(super) fn are_long(features: u64) -> bool {
    LONG.iter().any(|feature| features & bit(*feature) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offloads = Offloads { csum: true, tso: true, ufo: true };

    #[test]
    fn features_follow_the_offloads() {
        let checks = bit(VIRTIO_NET_F_CSUM) | bit(VIRTIO_NET_F_GUEST_CSUM);
        let cuts = bit(VIRTIO_NET_F_HOST_TSO4) | bit(VIRTIO_NET_F_GUEST_TSO6);

        assert_eq!(ALL.features() & (checks | cuts), checks | cuts);
        assert_eq!(Offloads { csum: false, ..ALL }.features(), 0);
        let only = Offloads { tso: false, ufo: false, ..ALL };
        assert_eq!(only.features(), checks);
    }

    #[test]
    fn tap_is_told_what_the_driver_takes() {
        assert_eq!((flags(ALL.features()), are_long(ALL.features())), (0x17, true));
        assert_eq!(flags(bit(VIRTIO_NET_F_GUEST_CSUM)), 1);
        assert!(!are_long(bit(VIRTIO_NET_F_GUEST_CSUM)));
    }
}
