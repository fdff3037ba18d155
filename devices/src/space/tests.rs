use super::*;

/// Answers every read with the offset.
struct Echo;

impl Access for Echo {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(u8::try_from(offset).unwrap());
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

fn read(space: &Space, address: u64) -> (bool, u8) {
    let mut data = [0];
    (space.read(address, &mut data), data[0])
}

#[test]
fn access_finds_its_range_and_offset() {
    let space = Arc::new(Space::default());
    let _claim = space.claim(0x1000, 0x10, Arc::new(Echo)).unwrap();

    assert_eq!(read(&space, 0x1000), (true, 0));
    assert_eq!(read(&space, 0x100f), (true, 15));
    assert_eq!(read(&space, 0x1010), (false, 0xff));
    assert_eq!(read(&space, 0xfff), (false, 0xff));
}

#[test]
fn access_across_the_end_belongs_to_nobody() {
    let space = Arc::new(Space::default());
    let _claim = space.claim(0x1000, 0x10, Arc::new(Echo)).unwrap();

    assert!(!space.write(0x100e, &[0; 4]));
    assert!(space.write(0x100c, &[0; 4]));
}

#[test]
fn overlap_is_refused_and_names_the_other() {
    let space = Arc::new(Space::default());
    let _claim = space.claim(0x1000, 0x10, Arc::new(Echo)).unwrap();

    for (base, length) in [(0xfff, 2), (0x100f, 1), (0x1004, 4), (0x0, 0x2000)] {
        let error = space.claim(base, length, Arc::new(Echo)).err();
        assert_eq!(error, Some(ClaimError::Overlap { base, length, other: 0x1000 }));
    }
    assert!(space.claim(0xff0, 0x10, Arc::new(Echo)).is_ok());
}

#[test]
fn dropped_claim_frees_its_range() {
    let space = Arc::new(Space::default());

    drop(space.claim(0x1000, 0x10, Arc::new(Echo)).unwrap());

    assert_eq!(read(&space, 0x1000), (false, 0xff));
    assert!(space.claim(0x1000, 0x10, Arc::new(Echo)).is_ok());
}

#[test]
fn last_byte_of_the_space_can_be_claimed() {
    let space = Arc::new(Space::default());

    let _claim = space.claim(u64::MAX, 1, Arc::new(Echo)).unwrap();

    assert!(read(&space, u64::MAX).0);
    assert_eq!(
        space.claim(u64::MAX, 2, Arc::new(Echo)).err(),
        Some(ClaimError::NoRange { base: u64::MAX, length: 2 })
    );
}
