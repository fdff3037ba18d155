//! What a function's interrupts look like from outside: the guest's side and the
//! host's at one moment, for people who want to know where one got stuck.

use crate::irq::{Delivery, Message};
use crate::pci::msi::Msi;
use crate::pci::msix::{self, Msix};
use crate::vfio::sys::device::Index;

use super::{Kind, Refusal, State};

/// Kind of interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None is on.
    None,
    /// The line.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    Msix,
}

/// Both sides of one function's interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The kind that the guest has on.
    pub mode: Mode,
    /// The kind that is on at the host: another than the guest's if the host refused.
    pub host_mode: Mode,
    /// Why the host does not have it on, if it refused.
    pub refusal: Option<Refusal>,
    /// The MSI-X capability, if there is one.
    pub msix: Option<MsixView>,
    /// The MSI capability, if there is one.
    pub msi: Option<MsiView>,
    /// The line, if there is one.
    pub line: Option<LineView>,
    /// Vectors of MSI that are in use, while MSI is on; otherwise those of MSI-X
    /// that are not as after reset.
    pub vectors: Vec<VectorView>,
}

/// The guest's MSI-X capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixView {
    /// Entries of the table.
    pub table_size: u16,
    /// The guest has set MSI-X Enable.
    pub enabled: bool,
    /// The guest has set Function Mask.
    pub function_masked: bool,
}

/// The guest's MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiView {
    /// Vectors the function could use.
    pub capable: u16,
    /// Vectors the guest has enabled; none while MSI is off.
    pub in_use: u16,
}

/// The line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineView {
    /// The guest's number for it.
    pub number: u32,
    /// The command register lets the function raise it.
    pub allowed: bool,
    /// The host's interrupt leads to it.
    pub wired: bool,
}

/// One message-signalled vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorView {
    /// Its index.
    pub vector: u16,
    /// What the guest sees of it.
    pub guest: msix::View,
    /// Its Pending bit.
    pub pending: bool,
    /// What becomes of its events.
    pub delivery: Delivery,
    /// The host's interrupt leads to its eventfd.
    pub wired: bool,
    /// What the host refused when the vector last woke.
    pub refusal: Option<Refusal>,
}

impl State {
    pub(super) fn view(&self) -> View {
        let line = self.line.as_ref();
        View {
            mode: self.kind.into(),
            host_mode: self.wired.active().into(),
            refusal: self.refusals.index,
            msix: self.msix.as_ref().map(MsixView::of),
            msi: self.msi.as_ref().map(MsiView::of),
            line: line.map(|line| LineView {
                number: line.number(),
                allowed: self.line_allowed,
                wired: self.wired.has_line(),
            }),
            vectors: self.vector_views(),
        }
    }

    fn vector_views(&self) -> Vec<VectorView> {
        match (&self.msi, &self.msix) {
            (Some(msi), _) if matches!(self.kind, Kind::Msi { .. }) => {
                let used = (0..msi.in_use()).filter_map(|v| Some((v, msi.view(v)?)));
                used.map(|(vector, guest)| self.vector_view(vector, guest)).collect()
            }
            (_, Some(msix)) => {
                let all = (0..msix.count()).filter_map(|v| Some((v, msix.view(v)?)));
                let all = all.map(|(vector, guest)| self.vector_view(vector, guest));
                let mut used: Vec<_> = all.filter(|vector| !vector.is_reset()).collect();
                used.iter_mut().for_each(|view| view.pending |= self.keeps_pending(view));
                used
            }
            (_, None) => Vec::new(),
        }
    }

    /// Whether the device keeps an event of a vector that is held.
    fn keeps_pending(&self, view: &VectorView) -> bool {
        self.kind == Kind::Msix && !view.guest.live && !view.wired && self.keeps(view.vector)
    }

    fn vector_view(&self, vector: u16, guest: msix::View) -> VectorView {
        VectorView {
            vector,
            guest,
            pending: !guest.live && self.vectors.pending(vector),
            delivery: self.vectors.delivery(vector),
            wired: self.wired.has(vector),
            refusal: self.refusals.vectors.get(&vector).copied(),
        }
    }
}

impl VectorView {
    /// Whether nobody has touched it since the reset (PCI 3.0, 6.8.2.9).
    fn is_reset(&self) -> bool {
        let Self { vector: _, guest, pending, delivery, wired, refusal } = *self;
        let written = guest.message != Message::default() || !guest.masked;
        !written && !pending && !wired && refusal.is_none() && delivery == Delivery::default()
    }
}

impl MsixView {
    fn of(msix: &Msix) -> Self {
        Self {
            table_size: msix.count(),
            enabled: msix.enabled(),
            function_masked: msix.function_masked(),
        }
    }
}

impl MsiView {
    fn of(msi: &Msi) -> Self {
        Self { capable: msi.capable(), in_use: msi.in_use() }
    }
}

impl From<Kind> for Mode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Silent => Self::None,
            Kind::Line => Self::Intx,
            Kind::Msi { .. } => Self::Msi,
            Kind::Msix => Self::Msix,
        }
    }
}

impl From<Option<Index>> for Mode {
    fn from(index: Option<Index>) -> Self {
        match index {
            None => Self::None,
            Some(Index::Intx) => Self::Intx,
            Some(Index::Msi) => Self::Msi,
            Some(Index::Msix) => Self::Msix,
        }
    }
}
