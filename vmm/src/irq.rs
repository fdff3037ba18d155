//! Interrupt numbers, the kernel's route table, and what raises them: the one
//! owner of all three.
//!
//! A vector costs an eventfd when it is first wired. When the guest unmasks it,
//! the [`relay`] delivers for it at once; a moment later it gets a number, a
//! route and an irqfd, together with all that came with it. Masking detaches it
//! and keeps the rest: the eventfd's count is then the Pending bit, and what
//! reads it next delivers it exactly once (Linux `virt/kvm/eventfd.c`,
//! `kvm_irqfd_assign`). Two orders must hold, or interrupts are lost:
//!
//! * the route is committed before the irqfd is attached;
//! * the irqfd is detached before its route goes.

pub mod lines;
mod poll;
pub mod relay;
pub mod routes;
pub mod vector;
pub mod vectors;

#[cfg(test)]
mod tests;
