//! How a function fares: the first of its accesses that the host has failed, and
//! what its last reset came to.
//!
//! A guest that works with a broken device fails a million accesses, and can make
//! single ones fail itself. So the first is kept and told, once, until a reset
//! works; the others are counted ([`crate::vfio::counters`]).

use std::fmt::Display;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

/// One function's health. Its lock is a leaf, held for no longer than it takes to
/// copy a sentence.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    /// Written when there is something to tell.
    bell: Arc<EventFd>,
}

/// How a function fares, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// The first access that failed since the last reset that worked.
    pub failure: Option<String>,
    /// What the last reset came to, if there was one: why it failed.
    pub last_reset: Option<Result<(), String>>,
}

/// Something that has not been told yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// An access has failed: which, and why.
    AccessFailed(String),
    /// A reset has failed: why.
    ResetFailed(String),
}

#[derive(Debug, Default)]
struct State {
    condition: Condition,
    news: Vec<News>,
}

impl Health {
    /// Of a function that has just been opened; `bell` is written when there are
    /// news.
    pub fn new(bell: Arc<EventFd>) -> Self {
        Self { state: Mutex::default(), bell }
    }

    /// The host has failed an access that the device should have answered.
    pub fn access_failed(&self, access: impl Display, error: &io::Error) {
        let mut state = self.lock();
        if state.condition.failure.is_none() {
            let failure = format!("{access}: {error}");
            state.condition.failure = Some(failure.clone());
            self.tell(state, News::AccessFailed(failure));
        }
    }

    /// A reset has worked, or not. If so, the past is forgotten.
    pub fn was_reset(&self, result: &io::Result<()>) {
        let mut state = self.lock();
        let result = result.as_ref().copied().map_err(ToString::to_string);
        state.condition.last_reset = Some(result.clone());
        match result {
            Ok(()) => state.condition.failure = None,
            Err(error) => self.tell(state, News::ResetFailed(error)),
        }
    }

    /// How it fares now.
    pub fn condition(&self) -> Condition {
        self.lock().condition.clone()
    }

    /// What has not been told yet, in the order in which it happened. At most a
    /// failed access and a reset for each reset.
    pub fn take_news(&self) -> Vec<News> {
        std::mem::take(&mut self.lock().news)
    }

    fn tell(&self, mut state: MutexGuard<'_, State>, news: News) {
        state.news.push(news);
        drop(state);
        // Fails only when the count is about to overflow: it rings already.
        let _ = self.bell.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn health() -> (Health, Arc<EventFd>) {
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        (Health::new(Arc::clone(&bell)), bell)
    }

    fn refused() -> io::Error {
        io::Error::other("refused")
    }

    #[test]
    fn flood_of_failures_is_told_once() {
        let (health, bell) = health();

        for offset in 0..1000 {
            health.access_failed(format_args!("read at {offset}"), &refused());
        }

        assert_eq!(bell.read().unwrap(), 1);
        assert_eq!(health.take_news(), [News::AccessFailed("read at 0: refused".to_owned())]);
        assert_eq!(health.take_news(), []);
        assert_eq!(health.condition().failure.as_deref(), Some("read at 0: refused"));
    }

    #[test]
    fn reset_that_works_forgets_the_failure_and_the_next_is_told_again() {
        let (health, _bell) = health();
        health.access_failed("read", &refused());
        health.take_news();

        health.was_reset(&Ok(()));
        assert_eq!(health.condition(), Condition { failure: None, last_reset: Some(Ok(())) });
        health.access_failed("write", &refused());

        assert_eq!(health.take_news(), [News::AccessFailed("write: refused".to_owned())]);
    }

    #[test]
    fn reset_that_fails_is_told_and_the_failure_stays() {
        let (health, bell) = health();
        health.access_failed("read", &refused());
        health.take_news();

        health.was_reset(&Err(io::Error::other("no answer")));

        assert_eq!(bell.read().unwrap(), 2);
        assert_eq!(health.take_news(), [News::ResetFailed("no answer".to_owned())]);
        let condition = health.condition();
        assert_eq!(condition.last_reset, Some(Err("no answer".to_owned())));
        assert!(condition.failure.is_some());
    }
}
