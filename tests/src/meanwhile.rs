//! Work that is done while a long request is under way.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Doing, Error, Result};
use crate::http::{Answer, Api};

/// What a request that takes long came to.
#[derive(Debug)]
pub struct Asked {
    /// Its answer.
    pub answer: Answer,
    /// How long that took.
    pub took: Duration,
}

/// Puts `body` to `verb` and does `work` until the answer comes; what both came to.
pub fn asking<T>(
    api: &Api,
    (verb, body): (&str, &Value),
    work: impl FnOnce() -> Result<T>,
) -> Result<(Asked, T)> {
    let begun = Instant::now();
    thread::scope(|scope| {
        let ask = || api.put_json(verb, body).map(|answer| Asked { answer, took: begun.elapsed() });
        let asked = thread::Builder::new().name("ask".into()).spawn_scoped(scope, ask);
        let done = work()?;
        let asked = asked.doing("start a thread")?.join();
        Ok((asked.map_err(|_| Error::Unexpected("the request has panicked".into()))??, done))
    })
}
