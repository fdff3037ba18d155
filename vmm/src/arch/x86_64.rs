//! x86-64 processors: what they claim to be and the state they start in.

pub mod cpuid;
pub mod registers;
pub mod reset;
