//! The pure ones of the design's cases, by value and by their numbers. Those that
//! need a real hypervisor are in `vmm::irq`, those that need a guest in the lab.

mod exact;
mod refused;

use std::sync::Arc;

use super::board::{Events, Handle};
use super::{PENDING, Setup, TABLE, function};
use crate::irq::Message;
use crate::pci::msix::{ENABLE, FUNCTION_MASK};
use crate::vfio::interrupts::Interrupts;
use crate::vfio::sys::device::Index;

const ENTRY: u64 = 16;
const CONTROL: u64 = 12;

/// A function, its guest and its host.
struct Scene {
    interrupts: Interrupts,
    handle: Handle,
}

/// The message that [`Scene::program`] gives to `vector`.
fn message(vector: u16) -> Message {
    Message { address: 0x1_fee0_1000, data: 0x40 + u32::from(vector) }
}

impl Scene {
    fn new(vectors: u16) -> Self {
        Self::on_host(vectors, true)
    }

    fn on_host(vectors: u16, grows: bool) -> Self {
        Self::with(Setup { vectors, grows, has_line: true, exact: false })
    }

    fn with(setup: Setup) -> Self {
        let vectors = setup.vectors;
        let (interrupts, handle) = function(setup, &Arc::new(Events::new(vectors.max(4))));
        Self { interrupts, handle }
    }

    /// MSI-X on, all vectors programmed and unmasked.
    fn live(vectors: u16) -> Self {
        Self::new(vectors).wake(vectors)
    }

    fn wake(self, vectors: u16) -> Self {
        let scene = self;
        scene.interrupts.write_msix_control(ENABLE);
        (0..vectors).for_each(|vector| scene.program(vector));
        (0..vectors).for_each(|vector| scene.mask(vector, false));
        scene
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(self.interrupts.write_bar(TABLE.bar, TABLE.offset + offset, bytes));
    }

    fn program(&self, vector: u16) {
        let (at, message) = (u64::from(vector) * ENTRY, message(vector));
        self.write(at, &message.address.to_le_bytes());
        self.write(at + 8, &message.data.to_le_bytes());
    }

    fn mask(&self, vector: u16, masked: bool) {
        self.write(u64::from(vector) * ENTRY + CONTROL, &u32::from(masked).to_le_bytes());
    }

    fn fire(&self, vectors: &[u16]) {
        vectors.iter().for_each(|vector| self.handle.fire_from_device(*vector));
    }

    fn entry(&self, vector: u16) -> [u64; 2] {
        let at = TABLE.offset + u64::from(vector) * ENTRY;
        [self.read(TABLE.bar, at), self.read(TABLE.bar, at + 8)]
    }

    fn pending(&self) -> u64 {
        self.read(PENDING.bar, PENDING.offset)
    }

    fn read(&self, bar: usize, offset: u64) -> u64 {
        let mut data = [0; 8];
        assert!(self.interrupts.read_bar(bar, offset, &mut data));
        u64::from_le_bytes(data)
    }

    /// Vectors whose messages arrived since the last look.
    fn heard(&self) -> Vec<u16> {
        let sent = self.handle.take_sent();
        sent.iter().map(|sent| (0..64).find(|v| message(*v) == *sent).unwrap()).collect()
    }
}

#[test]
fn case_01_table_at_power_on_is_masked_and_zero() {
    let scene = Scene::new(5);

    (0..5).for_each(|vector| assert_eq!(scene.entry(vector), [0, 1 << 32]));
    assert_eq!((scene.interrupts.msix_control(), scene.pending()), (4, 0));
}

#[test]
fn case_02_enabling_with_all_masked_takes_nothing_on_the_host() {
    let scene = Scene::new(5);

    scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);
    scene.interrupts.write_msix_control(ENABLE);

    assert!(scene.handle.is_active(Some(Index::Msix)));
    assert_eq!((scene.handle.wired(), scene.handle.changes()), ([false; 5], 0));
}

#[test]
fn case_03_vectors_unmasked_under_the_function_mask_wake_in_one_batch() {
    let scene = Scene::new(5);
    scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);
    (0..3).for_each(|vector| scene.program(vector));
    (0..3).for_each(|vector| scene.mask(vector, false));
    assert_eq!(scene.handle.wired(), [false; 5]);

    scene.interrupts.write_msix_control(ENABLE);

    assert_eq!(scene.handle.wired(), [true, true, true, false, false]);
    assert_eq!(scene.handle.changes(), 1, "calls that apply changes");
}

#[test]
fn cases_5_and_6_events_under_the_vector_mask_are_one_message_at_the_unmask() {
    let scene = Scene::live(5);
    scene.mask(3, true);

    scene.fire(&[3, 3, 3]);
    assert_eq!((scene.heard(), scene.pending()), (vec![], 1 << 3));
    scene.mask(3, false);
    assert_eq!((scene.heard(), scene.pending()), (vec![3], 0));
}

#[test]
fn cases_7_and_8_unmasking_sends_only_what_has_a_cause() {
    let scene = Scene::live(5);

    scene.mask(1, true);
    scene.mask(1, false);
    assert_eq!(scene.heard(), [] as [u16; 0]);
    scene.mask(1, true);
    scene.fire(&[1]);
    [false, true, false].into_iter().for_each(|masked| scene.mask(1, masked));
    assert_eq!(scene.heard(), [1]);
}

#[test]
fn case_09_two_vectors_under_the_function_mask_send_one_message_each() {
    let scene = Scene::live(5);
    scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);

    scene.fire(&[4, 2, 4]);
    assert_eq!((scene.heard(), scene.pending()), (vec![], 1 << 2 | 1 << 4));
    scene.interrupts.write_msix_control(ENABLE);
    assert_eq!((scene.heard(), scene.pending()), (vec![2, 4], 0));
}

#[test]
fn case_10_a_vector_speaks_when_both_masks_are_gone() {
    for function_mask_first in [true, false] {
        let scene = Scene::live(5);
        scene.mask(1, true);
        scene.interrupts.write_msix_control(ENABLE | FUNCTION_MASK);
        scene.fire(&[1]);

        let unmask = [function_mask_first, !function_mask_first];
        for (step, function) in unmask.into_iter().enumerate() {
            assert_eq!((scene.heard(), scene.pending()), (vec![], 1 << 1), "step {step}");
            match function {
                true => scene.interrupts.write_msix_control(ENABLE),
                false => scene.mask(1, false),
            }
        }
        assert_eq!((scene.heard(), scene.pending()), (vec![1], 0));
    }
}

#[test]
fn case_12_doublewords_and_quadwords_do_the_same_and_nothing_else_does_anything() {
    let [by_dword, by_qword] = [Scene::new(5), Scene::new(5)];
    let words = [0xfee0_1000_u32, 1, 0x77, 0];

    for (at, word) in (ENTRY..).step_by(4).zip(words) {
        by_dword.write(at, &word.to_le_bytes());
    }
    by_qword.write(ENTRY, &0x1_fee0_1000_u64.to_le_bytes());
    by_qword.write(ENTRY + 8, &0x77_u64.to_le_bytes());
    assert_eq!(by_dword.entry(1), [0x1_fee0_1000, 0x77]);
    assert_eq!(by_qword.entry(1), by_dword.entry(1));

    for (offset, length) in [(0, 1), (1, 1), (2, 2), (1, 4), (4, 8), (12, 8), (0, 3), (0, 16)] {
        by_dword.write(ENTRY + offset, &vec![0xa5; length]);
        assert_eq!(by_dword.entry(1), by_qword.entry(1), "{length} bytes at {offset}");
        assert_eq!(by_dword.entry(2), [0, 1 << 32], "{length} bytes at {offset}");
    }
    assert!(!by_dword.interrupts.write_bar(TABLE.bar, TABLE.offset + 5 * ENTRY, &[0; 4]));
}

#[test]
fn case_13_pending_bits_are_read_only_up_to_the_last_partial_quadword() {
    let scene = Scene::live(70);
    [66, 68].into_iter().for_each(|vector| scene.mask(vector, true));
    scene.fire(&[66, 68, 69]);
    scene.handle.take_sent();

    for _ in 0..2 {
        let halves = [8, 12].map(|at| {
            let mut half = [0; 4];
            assert!(scene.interrupts.read_bar(PENDING.bar, PENDING.offset + at, &mut half));
            u32::from_le_bytes(half)
        });
        assert_eq!((scene.pending(), halves), (0, [0b1_0100, 0]));
        assert_eq!(scene.read(PENDING.bar, PENDING.offset + 8), 0b1_0100);
        assert!(scene.interrupts.write_bar(PENDING.bar, PENDING.offset + 8, &[0; 8]));
    }
    assert!(!scene.interrupts.read_bar(PENDING.bar, PENDING.offset + 16, &mut [0; 4]));
}

#[test]
fn case_15_nothing_of_before_a_disable_arrives_after_it() {
    let scene = Scene::live(5);
    scene.mask(2, true);
    scene.fire(&[2]);

    scene.interrupts.write_msix_control(0);
    scene.fire(&[1, 2]);
    assert_eq!((scene.pending(), scene.handle.wired()), (0, [false; 5]));
    scene.interrupts.write_msix_control(ENABLE);
    scene.mask(2, false);
    assert_eq!(scene.heard(), [] as [u16; 0], "nothing stale");
    scene.fire(&[1, 2]);
    assert_eq!(scene.heard(), [1, 2], "the old entries");
}

#[test]
fn case_16_line_msix_line_and_msi_take_turns() {
    let scene = Scene::new(5);
    let active = |index| assert!(scene.handle.is_active(index), "not {index:?}");

    scene.interrupts.allow_line(true);
    active(Some(Index::Intx));
    scene.interrupts.write_msix_control(ENABLE);
    active(Some(Index::Msix));
    scene.interrupts.write_msix_control(0);
    active(Some(Index::Intx));
    scene.interrupts.write_msi(2, &[1]);
    active(Some(Index::Msi));
    scene.interrupts.write_msi(2, &[0]);
    active(Some(Index::Intx));
    scene.interrupts.allow_line(false);
    active(None);
}

#[test]
fn case_17_one_vector_and_2048() {
    for count in [1, 2048] {
        let scene = Scene::new(count);
        scene.interrupts.write_msix_control(ENABLE);
        assert_eq!(scene.interrupts.msix_control(), ENABLE | (count - 1));

        scene.program(count - 1);
        scene.mask(count - 1, false);
        scene.fire(&[count - 1]);

        assert_eq!(scene.handle.take_sent(), [message(count - 1)]);
        assert!(!scene.interrupts.write_bar(3, TABLE.offset + u64::from(count) * ENTRY, &[0; 4]));
    }
}

#[test]
fn case_20_reset_is_power_on_and_the_guest_can_enable_again() {
    let scene = Scene::live(5);
    scene.interrupts.allow_line(true);
    scene.interrupts.write_msi(4, &0xfee0_2000_u32.to_le_bytes());
    scene.mask(2, true);
    scene.fire(&[2]);

    scene.interrupts.reset();

    (0..5).for_each(|vector| assert_eq!(scene.entry(vector), [0, 1 << 32]));
    assert_eq!((scene.interrupts.msix_control(), scene.pending()), (4, 0));
    let mut msi = [0; 4];
    scene.interrupts.read_msi(4, &mut msi);
    assert_eq!(msi, [0; 4]);
    assert!(scene.handle.is_active(None));
    assert_eq!(scene.handle.wired(), [false; 5]);

    scene.interrupts.write_msix_control(ENABLE);
    scene.program(2);
    scene.mask(2, false);
    assert_eq!(scene.heard(), [] as [u16; 0], "nothing stale");
    scene.fire(&[2]);
    assert_eq!(scene.heard(), [2]);
}
