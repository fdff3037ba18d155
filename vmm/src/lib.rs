//! The machine: it owns the guest's memory, processors and devices, and is the
//! only crate that knows both the API and the device models.

pub mod acpi;
pub mod allocator;
pub mod arch;
pub mod assemble;
pub mod boot;
pub mod config;
pub mod console;
pub mod control;
pub mod event_loop;
pub mod events;
pub mod hotplug;
pub mod irq;
pub mod kvm;
pub mod lifecycle;
pub mod limits;
pub mod logging;
pub mod machine;
pub mod memory;
pub mod monitor;
pub mod priority;
pub mod privileges;
pub mod process;
pub mod sandbox;
pub mod seccomp;
pub mod signals;
pub mod vcpu;
pub mod warming;
pub mod watch;
pub mod workers;
