//! Why a vCPU came back from the guest, as far as the machine cares.
#![expect(unsafe_code, reason = "port data lies beside the kvm_run structure, in its mapping")]

use std::ptr;

use kvm_bindings::{KVM_EXIT_IO_OUT, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd};

/// A vCPU's reason to leave the guest.
#[derive(Debug)]
pub enum Exit<'a> {
    /// The guest reads from a port; one piece for each repetition.
    PortIn(u16, PortData<'a>),
    /// The guest writes to a port; one piece for each repetition.
    PortOut(u16, PortData<'a>),
    /// The guest reads guest-physical memory that nothing backs.
    MemoryRead(u64, &'a mut [u8]),
    /// The guest writes guest-physical memory that nothing backs.
    MemoryWrite(u64, &'a [u8]),
    /// A signal, a kick, or a processor that was started: look around, go on.
    Interrupted,
    /// Triple fault.
    Shutdown,
    /// The guest touched memory that backs it and cannot be had any more; what the
    /// kernel said about it. It does not say where.
    Unbacked(String),
    /// The vCPU cannot go on; what the kernel said about it.
    Broken(String),
}

/// Data of one port instruction, `size` bytes a repetition.
#[derive(Debug)]
pub struct PortData<'a> {
    bytes: &'a mut [u8],
    size: usize,
}

impl PortData<'_> {
    /// The repetitions, first to last: 1, 2 or 4 bytes each.
    pub fn pieces(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.bytes.chunks_mut(self.size)
    }
}

/// What kind of exit it was; the data is still in the `kvm_run` structure.
enum Kind {
    Port,
    Memory,
    Interrupted,
    Shutdown,
    InternalError,
    Unbacked(String),
    Broken(String),
}

/// Runs the guest until it needs something.
pub fn run(vcpu: &mut VcpuFd) -> Exit<'_> {
    let kind = enter(vcpu);
    let run = vcpu.get_kvm_run();
    match kind {
        Kind::Port => port(run),
        Kind::Memory => memory(run),
        Kind::Interrupted => Exit::Interrupted,
        Kind::Shutdown => Exit::Shutdown,
        Kind::InternalError => Exit::Broken(internal_error(run)),
        Kind::Unbacked(reason) => Exit::Unbacked(reason),
        Kind::Broken(reason) => Exit::Broken(reason),
    }
}

fn enter(vcpu: &mut VcpuFd) -> Kind {
    match vcpu.run() {
        Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => Kind::Port,
        Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => Kind::Memory,
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Kind::Interrupted,
        Ok(VcpuExit::Shutdown) => Kind::Shutdown,
        Ok(VcpuExit::InternalError) => Kind::InternalError,
        Ok(other) => Kind::Broken(format!("unexpected exit: {other:x?}")),
        Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => Kind::Interrupted,
        Err(error) if error.errno() == libc::EFAULT => Kind::Unbacked(format!("KVM_RUN: {error}")),
        Err(error) => Kind::Broken(format!("KVM_RUN: {error}")),
    }
}

fn memory(run: &mut kvm_run) -> Exit<'_> {
    // SAFETY: the kernel fills this member of the union for a memory exit.
    let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
    let length = usize::try_from(mmio.len).unwrap_or(0).min(mmio.data.len());
    let data = &mut mmio.data[..length];
    if mmio.is_write == 0 {
        Exit::MemoryRead(mmio.phys_addr, data)
    } else {
        Exit::MemoryWrite(mmio.phys_addr, data)
    }
}

/// Takes a port exit apart. `kvm-ioctls` would join the repetitions of a string
/// instruction into one access.
fn port(run: &mut kvm_run) -> Exit<'_> {
    // SAFETY: the kernel fills this member of the union for a port exit.
    let io = unsafe { run.__bindgen_anon_1.io };
    let size = usize::from(io.size).max(1);
    let Ok(offset) = usize::try_from(io.data_offset) else {
        return Exit::Broken("port data out of reach".to_owned());
    };
    let length = usize::try_from(io.count).unwrap_or(0) * size;
    let start = ptr::from_mut(run).cast::<u8>();
    // SAFETY: the kernel placed the data inside the mapping that begins with `run`.
    let data = unsafe { start.add(offset) };
    // SAFETY: the mapping has that many bytes there and lives as long as the vCPU,
    // which stays borrowed as long as the slice.
    let bytes = unsafe { std::slice::from_raw_parts_mut(data, length) };
    let data = PortData { bytes, size };
    if u32::from(io.direction) == KVM_EXIT_IO_OUT {
        Exit::PortOut(io.port, data)
    } else {
        Exit::PortIn(io.port, data)
    }
}

fn internal_error(run: &kvm_run) -> String {
    // SAFETY: the kernel fills this member of the union for an internal error.
    let error = unsafe { run.__bindgen_anon_1.internal };
    format!("KVM internal error {}: {:x?}", error.suberror, &error.data[..4])
}
