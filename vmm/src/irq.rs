//! Interrupt numbers, the kernel's route table, and what raises them: the one
//! owner of all three.
//!
//! A vector costs an eventfd when it is first wired, and an interrupt number, a
//! route and an irqfd when the guest first unmasks it. Masking detaches the
//! irqfd and keeps the rest: the eventfd's count is then the Pending bit, and
//! attaching again delivers it exactly once (Linux `virt/kvm/eventfd.c`,
//! `kvm_irqfd_assign`). Two orders must hold, or interrupts are lost:
//!
//! * the route is committed before the irqfd is attached;
//! * the irqfd is detached before its route goes.

pub mod lines;
mod poll;
pub mod routes;
pub mod vectors;

#[cfg(test)]
mod tests;
