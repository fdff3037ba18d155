use super::*;

const FLUSH: u64 = 1 << 9;

fn registers() -> Registers {
    Registers::new(FLUSH, &[256, 128])
}

fn accept(registers: &mut Registers, features: u64) {
    for (select, half) in [(0, Half::Low), (1, Half::High)] {
        registers.write(Field::DriverFeatureSelect, select);
        registers.write(Field::DriverFeature, half.of(features));
    }
}

/// As a driver goes about it; what each step had for an effect.
fn bring_up(registers: &mut Registers, features: u64) -> Vec<Option<Effect>> {
    let mut effects = vec![registers.write(Field::Status, 1), registers.write(Field::Status, 3)];
    accept(registers, features);
    effects.push(registers.write(Field::Status, 0xb));
    effects.push(registers.write(Field::Status, 0xf));
    effects
}

#[test]
fn fields_are_accessed_whole() {
    assert_eq!(Field::at(0x14, 1), Some(Field::Status));
    assert_eq!(Field::at(0x34, 4), Some(Field::Device(Half::High)));
    for (offset, length) in [(0x14, 2), (0x00, 1), (0x20, 8), (0x01, 4), (0x3c, 4), (0x12, 4)] {
        assert_eq!(Field::at(offset, length), None, "{offset:#x}, {length}");
    }
}

#[test]
fn features_are_offered_in_two_words_and_version_1_always() {
    let mut registers = registers();
    assert_eq!(registers.read(Field::DeviceFeature), 1 << 9);
    registers.write(Field::DeviceFeatureSelect, 1);
    assert_eq!(registers.read(Field::DeviceFeature), 1);
    registers.write(Field::DeviceFeatureSelect, 2);
    assert_eq!(registers.read(Field::DeviceFeature), 0);
}

#[test]
fn driver_that_goes_all_steps_activates_once() {
    let mut registers = registers();

    let effects = bring_up(&mut registers, FLUSH | VERSION_1);

    assert_eq!(effects, [None, None, None, Some(Effect::Activate)]);
    assert_eq!(registers.read(Field::Status), 0xf);
    assert_eq!(registers.write(Field::Status, 0xf), None, "it is active already");
    assert_eq!(registers.features(), FLUSH | VERSION_1);
}

#[test]
fn features_not_offered_or_without_version_1_are_not_accepted() {
    for features in [FLUSH, VERSION_1 | 1 << 5, 0] {
        let mut registers = registers();

        let effects = bring_up(&mut registers, features);

        assert!(effects.iter().all(Option::is_none), "{features:#x}");
        assert_eq!(registers.read(Field::Status), 3, "{features:#x}");
    }
}

#[test]
fn features_stay_once_they_are_accepted() {
    let mut registers = registers();
    bring_up(&mut registers, VERSION_1);

    accept(&mut registers, FLUSH | VERSION_1);

    assert_eq!(registers.features(), VERSION_1);
}

#[test]
fn reset_is_under_way_until_it_is_done() {
    let mut registers = registers();
    bring_up(&mut registers, VERSION_1);

    assert_eq!(registers.write(Field::Status, 0), Some(Effect::Reset));

    assert!(registers.is_resetting());
    assert_eq!(registers.read(Field::Status), 0xf);
    assert_eq!(registers.write(Field::Status, 0x4f), None, "nothing begins before it is done");
    registers.reset();
    assert_eq!((registers.read(Field::Status), registers.features()), (0, 0));
}

#[test]
fn driver_cannot_say_that_the_device_needs_a_reset() {
    let mut registers = registers();
    registers.write(Field::Status, 0x41);
    assert_eq!(registers.read(Field::Status), 1);
}

#[test]
fn queue_is_set_up_until_it_is_enabled() {
    let mut registers = registers();
    registers.write(Field::QueueSelect, 1);
    assert_eq!(registers.read(Field::QueueSize), 128);
    for refused in [0, 3, 256] {
        registers.write(Field::QueueSize, refused);
        assert_eq!(registers.read(Field::QueueSize), 128);
    }
    registers.write(Field::QueueSize, 64);
    registers.write(Field::Descriptors(Half::Low), 0x1000);
    registers.write(Field::Driver(Half::High), 2);
    registers.write(Field::QueueEnable, 1);
    registers.write(Field::QueueSize, 16);
    registers.write(Field::Device(Half::Low), 0x3000);

    let queues: Vec<_> = registers.queues().map(|(most, setup)| (most, *setup)).collect();
    let set = Setup { size: 64, enabled: true, descriptors: 0x1000, driver: 2 << 32, device: 0 };
    assert_eq!(queues[1], (128, set));
    assert!(!queues[0].1.enabled);
}

#[test]
fn queue_that_is_not_there_reads_as_zeros_and_takes_nothing() {
    let mut registers = registers();
    registers.write(Field::QueueSelect, 2);
    for field in [Field::QueueSize, Field::QueueEnable, Field::QueueNotifyOff] {
        registers.write(field, 1);
        assert_eq!(registers.read(field), 0);
    }
    assert_eq!(registers.selected(), None);
}
