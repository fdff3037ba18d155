//! What differs between processor families.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
