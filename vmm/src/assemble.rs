//! Builds a machine out of its specification. Every part is a value whose drop
//! gives it back, so a failure half-way leaves nothing.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use devices::console::Console;
use devices::io::Access;
use devices::legacy::i8042::{self, I8042};
use devices::legacy::serial::Uart;
use devices::pci::Segment;
use devices::pci::bus::Bus;
use devices::pci::ecam::Ecam;
use devices::pci::ports::ConfigPorts;
use devices::platform::button::Button;
use devices::platform::power::{self, Power, PowerEvent};
use devices::platform::slots::Slots;
use devices::space::{Claim, ClaimError};
use devices::vfio::bars::GuestSpaces;
use devices::vfio::iommu::Iommu;
use devices::virtio::console::Console as Paravirtual;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::acpi;
use crate::boot::Payload;
use crate::config::{SerialSpec, VmSpec};
use crate::console::{self, backend};
use crate::events::{Event, Poster};
use crate::hotplug::{Bay, Finished, Host, Root};
use crate::irq::relay::Relay;
use crate::irq::routes::Routes;
use crate::kvm::vfio::VfioDevice;
use crate::kvm::{self, Irqchips, Kvm};
use crate::machine::{Machine, Serial};
use crate::memory::ram::{self, Ram};
use crate::memory::surplus::Surplus;
use crate::memory::warmth::Warmth;
use crate::memory::{layout, slots, windows};
use crate::monitor::Monitor;
use crate::seccomp::Filters;
use crate::vcpu::{self, Spaces, Vcpus};
use crate::warming::Warming;
use crate::watch::{Source, Watch};
use crate::workers::Workers;

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel call.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// Its memory.
    #[error(transparent)]
    Ram(#[from] ram::Error),
    /// Its processors.
    #[error(transparent)]
    Vcpu(#[from] vcpu::Error),
    /// Where its serial port or its console goes.
    #[error(transparent)]
    Console(#[from] console::Error),
    /// Two devices at one address: the layout is wrong.
    #[error(transparent)]
    Layout(#[from] ClaimError),
    /// The host has no descriptor left.
    #[error("cannot create or watch a descriptor")]
    Descriptor(#[from] io::Error),
}

/// Who a machine's threads and descriptors report to.
#[derive(Clone, Copy)]
pub struct Reports<'a> {
    /// For guest events.
    pub events: &'a Poster<Event>,
    /// For what workers have finished.
    pub finished: &'a Poster<Finished>,
    /// For descriptors.
    pub watch: &'a Watch,
    /// What the machine's threads may do.
    pub filters: &'a Arc<Filters>,
    /// Told what happens to its devices.
    pub monitor: &'a Monitor,
}

/// Builds the machine of `spec`, which boots `payload`; its vCPUs are parked.
pub fn assemble(spec: &VmSpec, payload: Payload, reports: Reports<'_>) -> Result<Machine, Error> {
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm()?;
    let fresh_chips = Irqchips::capture(&vm)?;
    fresh_chips.restore(&vm)?;
    let limit = u32::try_from(kvm.memslots()).unwrap_or(u32::MAX);
    let memory_slots = slots::Slots::new(Arc::clone(&vm), limit);
    let ram = Ram::new(spec.memory, &memory_slots)?;
    let windows = memory_slots.of_devices();
    let spaces = Spaces { memory: Arc::default(), ports: Arc::default(), windows };

    let mut board = Board { vm: &vm, spaces: &spaces, reports, claims: Vec::new() };
    board.power()?;
    let button = board.button()?;
    let serial = board.serial(&spec.serial)?;
    let (console, paravirtual) = board.console(&spec.console)?.unzip();
    let windows = windows::shared(spec.segments, &mem64(spec.memory.size, kvm.address_bits()?));
    let guest = |apertures| GuestSpaces {
        memory: Arc::clone(&spaces.memory),
        io: Arc::clone(&spaces.ports),
        windows: Arc::new(spaces.windows.clone()),
        apertures,
    };
    let roots = Segment::first(spec.segments).zip(&windows);
    let roots = roots.map(|(segment, windows)| board.root(segment, guest(windows.clone())));
    let roots = roots.collect::<Result<_, _>>()?;
    let claims = board.claims;

    let vcpus = Vcpus::new((&kvm, &vm), spec.vcpus, &spaces, (reports.events, reports.filters))?;
    let warmth = Arc::new(Warmth::new(ram.memory()));
    let host = Host {
        console: paravirtual,
        ..host(&vm, (&ram, Arc::clone(&warmth)), memory_slots, reports)?
    };
    let bay = Bay::new(
        roots,
        host,
        (reports.finished.clone(), reports.monitor.clone()),
        Workers::new(Arc::clone(reports.filters)),
    );
    let tables = acpi::Inputs { vcpus: spec.vcpus, segments: windows, com1: serial.is_some() };
    Ok(Machine {
        vcpus,
        bay,
        _claims: claims,
        serial,
        console,
        button,
        _spaces: spaces,
        warming: Warming::new(warmth, spec.memory.prefault),
        ram,
        fresh_chips,
        vm,
        payload,
        tables,
    })
}

/// What devices are built with, and how they make themselves heard.
fn host(
    vm: &Arc<VmFd>,
    (ram, warmth): (&Ram, Arc<Warmth>),
    memory_slots: slots::Slots,
    reports: Reports<'_>,
) -> Result<Host, Error> {
    let watch = Arc::new(VfioDevice::new(Arc::clone(vm)));
    let routes = Arc::new(Routes::new(Arc::clone(vm)));
    let iommu = Arc::new(Iommu::new(ram.ranges(), Arc::clone(&warmth) as _, watch));
    let host = Host {
        surplus: Arc::new(Surplus::new(ram.memory(), warmth, Arc::clone(&iommu))),
        iommu,
        relay: Arc::new(Relay::start(routes, Arc::clone(reports.filters))?),
        memory_slots,
        vm: Arc::clone(vm),
        memory: ram.memory().clone(),
        console: None,
        filters: Arc::clone(reports.filters),
        notices: Arc::new(Watch::new()?),
        bell: Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?),
    };
    host.notices.add_edges(&*host.bell, Source::Devices)?;
    reports.watch.add(&*host.notices, Source::Devices)?;
    Ok(host)
}

/// Places the devices that are always there.
struct Board<'a> {
    vm: &'a VmFd,
    spaces: &'a Spaces,
    reports: Reports<'a>,
    claims: Vec<Claim>,
}

impl Board<'_> {
    /// The power registers of our ACPI tables, and the reset line of a PC.
    fn power(&mut self) -> Result<(), Error> {
        let events: Arc<dyn power::Events> = Arc::new(self.reports.events.clone());
        let power = Power::new(Arc::clone(&events));
        self.port(layout::POWER_PORT, layout::POWER_SIZE, Arc::new(power))?;
        self.port(i8042::FIRST_PORT, i8042::PORTS, Arc::new(I8042::new(events)))
    }

    fn button(&mut self) -> Result<Arc<Button>, Error> {
        let button = Arc::new(Button::new(self.interrupt(layout::EVENT_GSI)?));
        self.port(layout::BUTTON_PORT, layout::BUTTON_SIZE, button.clone())?;
        Ok(button)
    }

    fn serial(&mut self, spec: &SerialSpec) -> Result<Option<Serial>, Error> {
        let Some(backend) = backend(spec, "serial port")? else { return Ok(None) };
        let uart = Arc::new(Uart::new(self.interrupt(layout::COM1_GSI)?)?);
        let console = Console::new(backend, Arc::clone(&uart) as _)?;
        self.reports.watch.add(&console, Source::Console)?;
        self.port(layout::COM1_PORT, layout::COM1_SIZE, uart.clone())?;
        Ok(Some(Serial { console, uart }))
    }

    /// Both halves of a paravirtual console. It comes to the guest as all devices of ours do.
    fn console(&self, spec: &SerialSpec) -> Result<Option<(Console, Arc<Paravirtual>)>, Error> {
        let Some(backend) = backend(spec, "console")? else { return Ok(None) };
        let paravirtual = Arc::new(Paravirtual::new()?);
        let console = Console::new(backend, Arc::clone(&paravirtual) as _)?;
        self.reports.watch.add(&console, Source::Console)?;
        Ok(Some((console, paravirtual)))
    }

    /// A segment's root bus behind its window on configuration space, the first segment's behind the ports as
    /// well, and its hot-plug registers. All of these interrupt the guest in the same way.
    fn root(&mut self, segment: Segment, spaces: GuestSpaces) -> Result<Root, Error> {
        let (bus, number) = (Arc::<Bus>::default(), u64::from(segment.number()));
        if segment == Segment::default() {
            let ports = ConfigPorts::new(Arc::clone(&bus));
            self.port(layout::CONFIG_PORT, layout::CONFIG_SIZE, Arc::new(ports))?;
        }
        let ecam = Arc::new(Ecam::new(Arc::clone(&bus)));
        let window = layout::ECAM_BASE + number * layout::ECAM_SIZE;
        self.claims.push(self.spaces.memory.claim(window, layout::ECAM_SIZE, ecam)?);
        let slots = Arc::new(Slots::new(self.interrupt(layout::EVENT_GSI)?)?);
        self.reports.watch.add(&*slots, Source::Slots)?;
        let registers = layout::SLOTS_PORT + number * layout::SLOTS_SIZE;
        self.port(registers, layout::SLOTS_SIZE, slots.clone())?;
        Ok(Root { bus, slots, spaces })
    }

    fn port(&mut self, base: u64, size: u64, device: Arc<dyn Access>) -> Result<(), Error> {
        self.claims.push(self.spaces.ports.claim(base, size, device)?);
        Ok(())
    }

    /// An eventfd that raises `gsi` for an instant when it is written.
    fn interrupt(&self, gsi: u32) -> Result<EventFd, Error> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let connected = self.vm.register_irqfd(&event, gsi);
        connected.map_err(kvm::Error::call("connect an interrupt"))?;
        Ok(event)
    }
}

/// Window for 64-bit BARs: what the processors can address above the RAM.
fn mem64(ram: u64, address_bits: u32) -> Range<u64> {
    /// The largest page a BAR can be mapped with.
    const ALIGNMENT: u64 = 1 << 30;
    /// Cloud Hypervisor's limit: guests' own limits begin here.
    const MOST_BITS: u32 = 46;
    let start = ram::end(ram).next_multiple_of(ALIGNMENT);
    let end = 1 << address_bits.min(MOST_BITS);
    start..end.max(start)
}

impl power::Events for Poster<Event> {
    fn post(&self, event: PowerEvent) {
        Self::post(
            self,
            match event {
                PowerEvent::Off => Event::PowerOff,
                PowerEvent::Reset => Event::Reset,
            },
        );
    }
}
