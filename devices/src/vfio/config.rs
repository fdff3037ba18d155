//! Configuration space as the guest sees it: which registers are ours, which
//! never change, and which are the device's.
//!
//! Pure: an image of the device's space goes in once; afterwards each register
//! says whose it is. What is fixed is read from the image and never from the
//! host again, so that a guest's scan costs the host next to nothing.

mod piece;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::pci::capability::{self, Capability, Extended};
use crate::pci::config::{self, word};

pub use self::piece::Piece;

/// Whose register it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Never changes; writes are dropped.
    Fixed,
    /// The guest's to write and read back; means nothing to the device.
    Scratch,
    /// The command register.
    Command,
    /// A base address register, or the ROM's, by its number in `pci::bar`.
    Bar(usize),
    /// The MSI capability, from its first byte.
    Msi(u16),
    /// Message control of MSI-X.
    MsixControl,
    /// Power management control and status.
    PowerControl,
    /// Device control of PCI Express: holds the function-level reset bit.
    DeviceControl,
    /// Control of the advanced features: holds their reset bit.
    AdvancedControl,
    /// The device's own.
    Device,
}

/// Where MSI-X keeps its table or its pending bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// BAR number.
    pub bar: usize,
    /// Offset in the BAR, a multiple of 8.
    pub offset: u64,
}

/// What the device said of its MSI-X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// Vectors.
    pub count: u16,
    /// The table.
    pub table: Location,
    /// The pending bits.
    pub pending: Location,
}

impl MsixLayout {
    /// Bytes of the table.
    pub fn table_size(&self) -> u64 {
        u64::from(self.count) * crate::pci::msix::ENTRY_SIZE
    }

    /// Bytes of the pending bits: whole quadwords.
    pub fn pending_size(&self) -> u64 {
        u64::from(self.count.div_ceil(64)) * 8
    }
}

/// The guest's configuration space.
#[derive(Debug)]
pub struct Config {
    image: Vec<u8>,
    /// First offset of each field; it reaches to the next.
    fields: BTreeMap<u16, Field>,
    msi_control: Option<u16>,
    msix: Option<MsixLayout>,
    function_reset: bool,
}

// Within capabilities.
const POWER_CONTROL: u16 = 4;
const EXPRESS_FLAGS: u16 = 2;
const EXPRESS_DEVICE_CAPABILITIES: u16 = 4;
const EXPRESS_DEVICE_CONTROL: u16 = 8;
const EXPRESS_DEVICE_STATUS: u16 = 10;
const EXPRESS_LINK: Range<u16> = 0x0c..0x14;
const EXPRESS_SLOT_AND_ROOT: Range<u16> = 0x14..0x24;
const EXPRESS_DEVICE_CONTROL2: Range<u16> = 0x28..0x2c;
const EXPRESS_LINK2: Range<u16> = 0x2c..0x34;
const EXPRESS_END: u16 = 0x3c;
const FUNCTION_RESET_CAPABLE: u32 = 1 << 28;
const ADVANCED_CONTROL: u16 = 4;
const MSIX_CONTROL: u16 = 2;
const MSIX_END: u16 = 12;
const MSIX_BAR_MASK: u32 = 7;

/// Endpoint and legacy endpoint, in the flags of PCI Express (7.5.3.2).
const TYPE_ENDPOINTS: [u16; 2] = [0, 1];
/// An endpoint that sits in the root complex, as on our root bus, has no link.
const TYPE_ROOT_ENDPOINT: u16 = 9;
const TYPE_SHIFT: u16 = 4;
const TYPE_MASK: u16 = 0xf << TYPE_SHIFT;

impl Config {
    /// The guest's view of a device whose whole space is `image` (256 or 4,096
    /// bytes; shorter ones are filled with zeroes).
    pub fn new(mut image: Vec<u8>) -> Self {
        let express = image.len() >= config::EXPRESS_SIZE;
        let size = if express { config::EXPRESS_SIZE } else { config::CONVENTIONAL_SIZE };
        image.resize(size, 0);
        let mut config = Self {
            image,
            fields: BTreeMap::from([(0, Field::Fixed)]),
            msi_control: None,
            msix: None,
            function_reset: false,
        };
        config.lay_out_header();
        for capability in capability::list(&config.image) {
            config.lay_out(capability);
        }
        for capability in capability::extended_list(&config.image) {
            config.lay_out_extended(capability);
        }
        config
    }

    /// The device's MSI message control, if it has MSI.
    pub fn msi_control(&self) -> Option<u16> {
        self.msi_control
    }

    /// The device's MSI-X, if it has any.
    pub fn msix(&self) -> Option<MsixLayout> {
        self.msix
    }

    /// Whether a guest can reset the function through PCI Express.
    pub fn has_function_reset(&self) -> bool {
        self.function_reset
    }

    /// Interrupt pin: 0 none, 1 to 4 INTA to INTD.
    pub fn interrupt_pin(&self) -> u8 {
        self.image[usize::from(config::INTERRUPT_PIN)]
    }

    /// Cuts an access into pieces of one field each: the field, its first
    /// offset, and the piece of the access.
    pub fn pieces(&self, offset: u16, length: usize) -> Vec<(Field, u16, Range<u16>)> {
        let end = offset.saturating_add(u16::try_from(length).unwrap_or(u16::MAX));
        let mut pieces = Vec::new();
        let mut at = offset;
        while at < end {
            let (start, field) = self.field(at);
            let next = self.fields.range(at + 1..).next().map_or(u16::MAX, |(next, _)| *next);
            let stop = next.min(end);
            pieces.push((field, start, at..stop));
            at = stop;
        }
        pieces
    }

    /// Cuts a write of `data` at `offset` into pieces of one field each.
    pub fn cut<'a>(&self, offset: u16, data: &'a [u8]) -> Vec<Piece<'a>> {
        let pieces = self.pieces(offset, data.len()).into_iter();
        let within = |at: u16| usize::from(at - offset);
        pieces
            .map(|(field, start, range)| {
                let data = &data[within(range.start)..within(range.end)];
                Piece { field, start, at: range.start, data }
            })
            .collect()
    }

    /// Bytes that are fixed or scratch; zeroes past the end of the space.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let at = usize::from(offset);
        match self.image.get(at..at + data.len()) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0),
        }
    }

    /// Keeps what the guest writes in a scratch register.
    pub fn write_scratch(&mut self, offset: u16, data: &[u8]) {
        let at = usize::from(offset);
        if let Some(bytes) = self.image.get_mut(at..at + data.len()) {
            bytes.copy_from_slice(data);
        }
    }

    fn field(&self, offset: u16) -> (u16, Field) {
        let found = self.fields.range(..=offset).next_back();
        found.map_or((0, Field::Fixed), |(start, field)| (*start, *field))
    }

    /// Gives `range` to `field`; what follows stays as it was.
    fn assign(&mut self, range: Range<u16>, field: Field) {
        let limit = u16::try_from(self.image.len()).unwrap_or(u16::MAX);
        let range = range.start..range.end.min(limit);
        if range.is_empty() {
            return;
        }
        let (_, after) = self.field(range.end);
        self.fields.retain(|start, _| !range.contains(start));
        self.fields.entry(range.end).or_insert(after);
        self.fields.insert(range.start, field);
    }

    fn zero(&mut self, range: Range<u16>) {
        let range = usize::from(range.start)..usize::from(range.end).min(self.image.len());
        self.image.get_mut(range).into_iter().for_each(|bytes| bytes.fill(0));
    }

    fn lay_out_header(&mut self) {
        // A lone function: its neighbours, if any, have slots of their own.
        self.image[usize::from(config::HEADER_TYPE)] &= !config::MULTI_FUNCTION;
        self.assign(config::COMMAND..config::STATUS, Field::Command);
        self.assign(config::STATUS..config::CLASS_REVISION, Field::Device);
        self.assign(config::CACHE_LINE..config::HEADER_TYPE, Field::Scratch);
        for (index, at) in (0..6).zip((config::BAR0..).step_by(4)) {
            self.assign(at..at + 4, Field::Bar(index));
        }
        self.assign(config::ROM_BAR..config::ROM_BAR + 4, Field::Bar(crate::pci::bar::ROM));
        self.assign(config::INTERRUPT_LINE..config::INTERRUPT_PIN, Field::Scratch);
        self.write_scratch(config::INTERRUPT_LINE, &[0]);
        // Registers of its own that no capability declares are the device's.
        self.assign(config::HEADER_END..u16::MAX, Field::Device);
    }

    fn lay_out(&mut self, Capability { id, offset }: Capability) {
        self.assign(offset..offset + 2, Field::Fixed);
        match id {
            capability::POWER => {
                self.assign(offset + 2..offset + POWER_CONTROL, Field::Fixed);
                self.assign(offset + POWER_CONTROL..offset + 6, Field::PowerControl);
            }
            capability::MSI if self.msi_control.is_none() => {
                let control = word(&self.image, offset + 2);
                let length = crate::pci::msi::Msi::new(control).length();
                self.msi_control = Some(control);
                self.assign(offset + 2..offset + length, Field::Msi(offset));
            }
            capability::MSIX if self.msix.is_none() => self.lay_out_msix(offset),
            capability::EXPRESS => self.lay_out_express(offset),
            capability::ADVANCED_FEATURES => {
                self.assign(offset + 2..offset + ADVANCED_CONTROL, Field::Fixed);
                let control = offset + ADVANCED_CONTROL;
                self.assign(control..control + 1, Field::AdvancedControl);
            }
            _ => {}
        }
    }

    fn lay_out_msix(&mut self, offset: u16) {
        let location = |at: u16| {
            let value = config::dword(&self.image, at);
            let bar = usize::try_from(value & MSIX_BAR_MASK).unwrap_or(0);
            Location { bar, offset: u64::from(value & !MSIX_BAR_MASK) }
        };
        let count = (word(&self.image, offset + MSIX_CONTROL) & crate::pci::msix::SIZE_MASK) + 1;
        let (table, pending) = (location(offset + 4), location(offset + 8));
        self.msix = Some(MsixLayout { count, table, pending });
        self.assign(offset + MSIX_CONTROL..offset + 4, Field::MsixControl);
        self.assign(offset + 4..offset + MSIX_END, Field::Fixed);
    }

    fn lay_out_express(&mut self, offset: u16) {
        let flags = word(&self.image, offset + EXPRESS_FLAGS);
        let capabilities = config::dword(&self.image, offset + EXPRESS_DEVICE_CAPABILITIES);
        self.function_reset = capabilities & FUNCTION_RESET_CAPABLE != 0;
        let at = |range: Range<u16>| offset + range.start..offset + range.end;
        self.assign(at(2..EXPRESS_END), Field::Fixed);
        let control = offset + EXPRESS_DEVICE_CONTROL;
        self.assign(control..offset + EXPRESS_DEVICE_STATUS, Field::DeviceControl);
        self.assign(at(EXPRESS_DEVICE_STATUS..EXPRESS_LINK.start), Field::Device);
        self.assign(at(EXPRESS_DEVICE_CONTROL2), Field::Device);
        if TYPE_ENDPOINTS.contains(&((flags & TYPE_MASK) >> TYPE_SHIFT)) {
            let flags = (flags & !TYPE_MASK) | TYPE_ROOT_ENDPOINT << TYPE_SHIFT;
            self.write_scratch(offset + EXPRESS_FLAGS, &flags.to_le_bytes());
            for gone in [EXPRESS_LINK, EXPRESS_SLOT_AND_ROOT, EXPRESS_LINK2] {
                self.zero(at(gone));
            }
        }
    }

    fn lay_out_extended(&mut self, capability: Extended) {
        let start = capability.offset;
        self.assign(start..start + 4, Field::Fixed);
        if let Some(length) = capability::hidden_length(&self.image, capability) {
            // A null capability (ID 0) keeps its place in the list.
            self.zero(start..start + 2);
            let version_and_next = word(&self.image, start + 2) & 0xfff0;
            self.write_scratch(start + 2, &version_and_next.to_le_bytes());
            let end = start + u16::try_from(length).unwrap_or(4);
            self.zero(start + 4..end);
            self.assign(start..end, Field::Fixed);
        }
    }
}

#[cfg(test)]
mod tests;
