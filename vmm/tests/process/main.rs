//! hotbay as a process, from outside: over its real socket, confined as always, with a
//! guest of three bytes on the real kernel.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]
#![expect(unreachable_pub, reason = "the helpers are this test's own")]

mod ch_remote;
#[expect(dead_code, reason = "answers are checked here, bodies by the api crate")]
#[path = "../../../api/tests/openapi/contract.rs"]
mod contract;
mod events;
mod program;
mod properties;
mod session;
mod wire;
