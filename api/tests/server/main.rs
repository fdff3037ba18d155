//! The HTTP server on a real socket, with the test in the machine's place.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]
#![expect(unreachable_pub, reason = "the scene is this test's own")]

mod addresses;
mod clients;
mod handed;
mod refusals;
mod requests;
mod scene;
