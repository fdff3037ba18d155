//! What the fuzz targets share: bytes taken apart into decisions, answers checked, and both sides of
//! a passed-through function.
//!
//! A target panics when something that must always hold does not; libFuzzer then keeps the
//! input. `docs/testing.md` says how to run them.

pub mod draw;
pub mod good;
pub mod kernel;
pub mod live;
pub mod machine;
pub mod page;
pub mod slot;
