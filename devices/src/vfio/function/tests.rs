//! A function that breaks: a file stands in for it, whose bytes are its registers
//! and which can be cut short.

use std::fs::File;
use std::os::unix::fs::FileExt;

use vfio_bindings::bindings::vfio::{VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::irq::testing::NoVectors;
use crate::memory::{Backing, Window, Windows};
use crate::pci::bar::Apertures;
use crate::pci::capability::MSIX;
use crate::space::Space;
use crate::vfio::health::{Condition, News};
use crate::vfio::iommu;
use crate::vfio::resets::{Method, methods, steps};
use crate::vfio::sys::region::Region;

/// Where the file keeps configuration space, and BAR 0 after it.
const CONFIG_BYTES: u64 = 256;
const BAR_BYTES: u64 = 4096;
/// Where the guest puts BAR 0.
const ADDRESS: u64 = 0xe000_0000;
/// A register behind the header, which is the device's own: in no capability.
const VENDOR_REGISTER: u16 = 0x80;

/// Nothing of the file is mappable, so none is ever opened.
struct NoWindows;

impl Windows for NoWindows {
    fn open(&self, _guest: u64, _backing: Backing) -> io::Result<Box<dyn Window>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Scene {
    function: Arc<Passthrough>,
    memory: Arc<Space>,
    file: File,
    bell: Arc<EventFd>,
}

fn scene() -> Scene {
    scene_with(Means::Alone("flr".to_owned()))
}

/// A function with BAR 0 of 32-bit memory, placed and decoding.
fn scene_with(means: Means) -> Scene {
    let file = tempfile::tempfile().unwrap();
    file.set_len(CONFIG_BYTES + BAR_BYTES).unwrap();
    let region = |size, offset| Region {
        size,
        offset,
        flags: VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
        mappable: Vec::new(),
    };
    let mut regions = vec![Region::default(); 8];
    (regions[0], regions[7]) = (region(BAR_BYTES, CONFIG_BYTES), region(CONFIG_BYTES, 0));
    let device = Arc::new(Device::fake(file.try_clone().unwrap(), regions));
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let about = About {
        name: "0000:01:00.0".to_owned(),
        means,
        notices: Arc::default(),
        health: Arc::new(Health::new(Arc::clone(&bell))),
    };
    let config = Config::new(vec![0; 256]);
    let opened = Opened { device, config, dma: Dma::Group(iommu::fake(7)), about };
    let memory = Arc::new(Space::default());
    let spaces = GuestSpaces {
        memory: Arc::clone(&memory),
        io: Arc::default(),
        windows: Arc::new(NoWindows),
        apertures: Apertures { io: 0..0, mem32: ADDRESS..ADDRESS + (1 << 20), mem64: 0..0 },
    };
    let function = opened.finish(spaces, (Box::new(NoVectors), None, Choices::default()), &[]);
    function.write_config(config::BAR0, &0xe000_0000_u32.to_le_bytes());
    function.write_config(config::COMMAND, &COMMAND_MEMORY.to_le_bytes());
    Scene { function: Arc::new(function), memory, file, bell }
}

impl Scene {
    /// The guest reads BAR 0.
    fn load(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        assert!(self.memory.read(ADDRESS + offset, &mut data), "BAR 0 is not placed");
        u32::from_le_bytes(data)
    }

    /// The guest reads configuration space.
    fn config(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.function.read_config(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// The device loses its registers from `offset` of the file on.
    fn breaks_from(&self, offset: u64) {
        self.file.set_len(offset).unwrap();
    }

    fn news(&self) -> Vec<News> {
        self.function.health().take_news()
    }
}

#[test]
fn registers_that_work_are_the_device_s_and_nothing_is_told() {
    let scene = scene();
    scene.file.write_all_at(&[1, 2, 3, 4], CONFIG_BYTES + 8).unwrap();
    scene.file.write_all_at(&[5, 6, 7, 8], VENDOR_REGISTER.into()).unwrap();

    assert_eq!(scene.load(8), 0x0403_0201);
    assert_eq!(scene.config(VENDOR_REGISTER), 0x0807_0605);
    assert!(scene.memory.write(ADDRESS + 12, &[9; 4]));

    let mut written = [0; 4];
    scene.file.read_exact_at(&mut written, CONFIG_BYTES + 12).unwrap();
    assert_eq!(written, [9; 4]);
    assert!(scene.bell.read().is_err());
    assert_eq!(scene.function.health().condition(), Condition::default());
}

#[test]
fn broken_bar_reads_as_ones_and_is_told_once() {
    let scene = scene();
    scene.breaks_from(CONFIG_BYTES + 16);

    for _ in 0..3 {
        assert_eq!(scene.load(16), u32::MAX);
    }

    assert_eq!(scene.load(0), 0, "what is left answers");
    assert_eq!(scene.bell.read().unwrap(), 1);
    let [News::AccessFailed(what)] = &scene.news()[..] else { panic!() };
    assert!(what.starts_with("read of BAR 0 at 0x10: "), "{what}");
    assert_eq!(scene.function.counters().access_failures.get(), 3);
}

#[test]
fn broken_configuration_space_reads_as_ones_and_is_told_once() {
    let scene = scene();
    scene.breaks_from(0);

    assert_eq!(scene.config(VENDOR_REGISTER), u32::MAX);
    assert_eq!(scene.config(VENDOR_REGISTER + 4), u32::MAX);

    assert_eq!(scene.config(config::BAR0), 0xe000_0000, "ours, which nothing can break");
    let [News::AccessFailed(what)] = &scene.news()[..] else { panic!() };
    assert!(what.starts_with("read of configuration space at 0x80: "), "{what}");
    assert_eq!(scene.function.counters().access_failures.get(), 2);
}

#[test]
fn reset_that_fails_is_told_and_leaves_the_function_quiet() {
    let scene = scene();
    let [step] = &steps(&[Arc::clone(&scene.function)])[..] else { panic!() };

    step.quiesce().unwrap();
    // A file has no such ioctl.
    let error = step.reset().unwrap_err();

    assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    let mut data = [0; 4];
    assert!(!scene.memory.read(ADDRESS, &mut data), "its BAR is still there");
    let mut command = [0xff; 2];
    scene.file.read_exact_at(&mut command, config::COMMAND.into()).unwrap();
    assert_eq!(command, [0; 2], "its DMA goes on");
    let Condition { failure: None, last_reset: Some(Err(_)) } = scene.function.health().condition()
    else {
        panic!("{:?}", scene.function.health().condition());
    };
    assert!(matches!(&scene.news()[..], [News::ResetFailed(_)]));
}

#[test]
fn function_without_a_reset_is_quiet_all_the_same_and_says_why() {
    let scene = scene_with(Means::Nothing("no way".to_owned()));
    assert_eq!(methods(&[&scene.function]), [Method::Nothing("no way".to_owned())]);

    let [step] = &steps(&[Arc::clone(&scene.function)])[..] else { panic!() };
    step.quiesce().unwrap();
    let error = step.reset().unwrap_err();

    assert_eq!(error.to_string(), "no way");
    assert!(!scene.memory.read(ADDRESS, &mut [0]), "its BAR is still there");
    assert_eq!(scene.news(), [News::ResetFailed("no way".to_owned())]);
}

/// A function with an MSI-X table of two vectors in `bar`, where each BAR, and the
/// ROM, has 4 KiB.
fn with_table(bar: u8, offset: u16) -> io::Result<Config> {
    let mut image = [0; 256];
    image[usize::from(config::STATUS)] = 0x10;
    image[usize::from(config::CAPABILITIES)] = 0x40;
    image[0x40..0x44].copy_from_slice(&[MSIX, 0, 1, 0]);
    let [low, high] = offset.to_le_bytes();
    image[0x44..0x48].copy_from_slice(&[low | bar, high, 0, 0]);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&image, 0).unwrap();
    let region = |size, offset| Region { size, offset, flags: 0, mappable: Vec::new() };
    let mut regions = vec![region(BAR_BYTES, CONFIG_BYTES); 7];
    regions.push(region(CONFIG_BYTES, 0));
    configuration(&Device::fake(file, regions))
}

#[test]
fn table_inside_a_bar_is_taken() {
    assert_eq!(with_table(5, 0xfe0).unwrap().msix().map(|layout| layout.count), Some(2));
}

#[test]
fn table_past_its_bar_is_refused() {
    assert_eq!(with_table(5, 0xfe8).err().unwrap().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn table_in_a_reserved_bar_is_refused_though_vfio_has_such_a_region() {
    for reserved in [6, 7] {
        let refused = with_table(reserved, 0).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{reserved}");
    }
}
