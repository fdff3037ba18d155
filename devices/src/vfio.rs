//! PCI functions handed to the guest through VFIO: the host's, and those that another
//! process emulates.
//!
//! ```text
//! host      which function a path means, and whether it can be had (preflight)
//! progress  how far a device has come on its way in, and whether to give up
//! room      whether the guest has addresses enough for its BARs
//! iommu     container and groups: guest RAM mapped while a group is attached
//! sys       the kernel's interface: device fd, regions, interrupts (all unsafe)
//! config    configuration space as the guest sees it (pure)
//! bars      BARs placed in the guest's address spaces
//! interrupts  which of INTx, MSI and MSI-X is active, on both sides
//! taken     how many of a function's interrupts the host has taken
//! notices   what the host says: the function has failed, or is wanted back
//! health    what went wrong with a function, told once
//! resets    which reset each function gets, and who is reset together
//! user      functions that another process emulates
//! dma       who lets a function reach guest RAM
//! function  the parts as one PCI function
//! ```

pub mod bars;
pub mod config;
pub mod counters;
pub mod dma;
pub mod function;
pub mod health;
pub mod host;
pub mod interrupts;
pub mod iommu;
pub mod notices;
pub mod progress;
pub mod resets;
pub mod room;
pub mod sys;
pub mod taken;
pub mod user;
