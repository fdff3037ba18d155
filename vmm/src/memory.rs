//! Guest memory: where it is, what backs it, how devices reach it.

pub mod layout;
pub mod ram;
pub mod slots;
pub mod surplus;
pub mod warmth;
pub mod windows;
