//! Events for clients who ask (`vm.events`): the latest are kept, and who has seen them
//! all is answered when there is another. Nobody waits here: a [`Reply`] is kept.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::mailbox::Reply;
use api::request::Response;
use api::schema::events::{Event, Events, Follow};

use super::Notice;

/// Events that are kept.
pub(super) const ROOM: usize = 1024;
/// Clients that may wait at the same time; one more, and the oldest is answered. It may have
/// hung up, which nobody tells us.
pub(super) const WAITING: usize = 1024;

/// The latest events, and who waits for the next.
#[derive(Debug, Default)]
pub(super) struct Feed(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Oldest first; the last one has the last number, and there are no gaps.
    kept: VecDeque<Kept>,
    /// Number of the last event there was; 0 before the first.
    last: u64,
    /// Who has seen all of them, and until when they wait.
    waiting: VecDeque<(Instant, Reply)>,
    /// Nobody is to wait any more.
    ended: bool,
}

/// An event, in a fraction of the memory that an [`Event`] takes.
#[derive(Debug)]
struct Kept {
    timestamp: Duration,
    source: &'static str,
    event: &'static str,
    properties: Box<[(&'static str, Box<str>)]>,
}

impl Kept {
    fn new(notice: Notice<'_>, timestamp: Duration) -> Self {
        let (source, event, properties) = notice.parts();
        let owned = |(name, value): (_, Cow<'_, str>)| (name, value.into_owned().into_boxed_str());
        Self { timestamp, source, event, properties: properties.into_iter().map(owned).collect() }
    }

    fn told(&self, number: u64) -> Event {
        let named = |(name, value): &(&str, Box<str>)| ((*name).to_owned(), value.to_string());
        let properties = self.properties.iter().map(named).collect();
        Event {
            number,
            timestamp: self.timestamp,
            source: self.source.to_owned(),
            event: self.event.to_owned(),
            properties: Some(properties).filter(|_| !self.properties.is_empty()),
        }
    }
}

impl Feed {
    /// Adds an event, and tells those who wait for it.
    pub(super) fn add(&self, notice: Notice<'_>, timestamp: Duration) {
        let kept = Kept::new(notice, timestamp);
        let mut state = self.state();
        let seen = state.last;
        state.last += 1;
        if state.kept.len() == ROOM {
            state.kept.pop_front();
        }
        state.kept.push_back(kept);
        let waiting = std::mem::take(&mut state.waiting);
        if waiting.is_empty() {
            return;
        }
        let events = state.after(seen);
        drop(state);
        for (_, reply) in waiting {
            reply.send(Ok(Response::Events(events.clone())));
        }
    }

    /// Answers with the events that a client has not seen: at once if there are some, or
    /// else when there is one or its patience ends.
    pub(super) fn follow(&self, Follow { since, wait_ms }: Follow, reply: Reply) {
        let now = Instant::now();
        let until = now.checked_add(Duration::from_millis(wait_ms.unwrap_or(0))).unwrap_or(now);
        let mut state = self.state();
        let since = since.unwrap_or(0);
        let events = state.after(since);
        // A number that is still to come is of another hotbay's life.
        let first = if since != state.last || until <= now || state.ended {
            Some(reply)
        } else {
            state.waiting.push_back((until, reply));
            let full = state.waiting.len() > WAITING;
            full.then(|| state.waiting.pop_front()).flatten().map(|(_, reply)| reply)
        };
        drop(state);
        first.into_iter().for_each(|reply| reply.send(Ok(Response::Events(events.clone()))));
    }

    /// Answers those whose patience has ended; how long the others' lasts at least.
    pub(super) fn expire(&self) -> Option<Duration> {
        let mut state = self.state();
        if state.waiting.is_empty() {
            return None;
        }
        let now = Instant::now();
        let (over, waiting): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut state.waiting).into_iter().partition(|(until, _)| *until <= now);
        state.waiting = waiting;
        let next = state.waiting.iter().map(|(until, _)| until.duration_since(now)).min();
        let none = state.after(state.last);
        drop(state);
        over.into_iter().for_each(|(_, reply)| reply.send(Ok(Response::Events(none.clone()))));
        next
    }

    /// Lets nobody wait any more.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let none = state.after(state.last);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(|(_, reply)| reply.send(Ok(Response::Events(none.clone()))));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What there is after the event with number `since`.
    fn after(&self, since: u64) -> Events {
        // Fewer than there have been.
        let first = self.last + 1 - self.kept.len() as u64;
        let events = (first..).zip(&self.kept).filter(|(number, _)| *number > since);
        let events = events.map(|(number, kept)| kept.told(number)).collect();
        Events { events, last: self.last, lost: first.saturating_sub(since.saturating_add(1)) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use api::request::Answer;

    use super::*;

    const NOW: Option<u64> = None;
    const LONG: Option<u64> = Some(600_000);

    fn feed(count: usize) -> Feed {
        let feed = Feed::default();
        (0..count).for_each(|_| feed.add(Notice::Paused, Duration::ZERO));
        feed
    }

    fn ask(feed: &Feed, since: u64, wait_ms: Option<u64>) -> Receiver<Answer> {
        let (reply, answer) = Reply::channel();
        feed.follow(Follow { since: Some(since), wait_ms }, reply);
        answer
    }

    /// Numbers of the events in an answer that is there, `last` and `lost`.
    fn told(answer: &Receiver<Answer>) -> Option<(Vec<u64>, u64, u64)> {
        match answer.try_recv().ok()? {
            Ok(Response::Events(Events { events, last, lost })) => {
                Some((events.iter().map(|event| event.number).collect(), last, lost))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events_are_numbered_and_told_after_the_one_that_is_known() {
        let feed = feed(3);

        assert_eq!(told(&ask(&feed, 0, LONG)), Some((vec![1, 2, 3], 3, 0)));
        assert_eq!(told(&ask(&feed, 2, LONG)), Some((vec![3], 3, 0)));
        assert_eq!(told(&ask(&feed, 3, NOW)), Some((vec![], 3, 0)));
    }

    #[test]
    fn who_knows_all_is_told_of_the_next() {
        let feed = feed(1);
        let (first, second) = (ask(&feed, 1, LONG), ask(&feed, 1, LONG));
        assert_eq!((told(&first), told(&second)), (None, None));

        feed.add(Notice::Device("nic0", super::super::DeviceNotice::Removing), Duration::ZERO);

        let Ok(Ok(Response::Events(events))) = first.try_recv() else { panic!() };
        assert_eq!(events.events[0].event, "device-removing");
        assert_eq!(events.events[0].properties.as_ref().unwrap()["id"], "nic0");
        assert_eq!(told(&second), Some((vec![2], 2, 0)));
    }

    #[test]
    fn patience_ends_with_no_event() {
        let feed = feed(1);
        assert_eq!(feed.expire(), None);
        let (short, long) = (ask(&feed, 1, Some(1)), ask(&feed, 1, LONG));

        while feed.expire().is_some_and(|next| next < Duration::from_secs(100)) {
            std::thread::yield_now();
        }

        assert_eq!((told(&short), told(&long)), (Some((vec![], 1, 0)), None));
    }

    #[test]
    fn what_is_not_kept_any_more_is_counted() {
        let feed = feed(ROOM + 10);

        let (events, last, lost) = told(&ask(&feed, 4, NOW)).unwrap();

        assert_eq!((events.len(), events[0], last, lost), (ROOM, 11, ROOM as u64 + 10, 6));
        assert_eq!(told(&ask(&feed, u64::MAX, LONG)), Some((vec![], last, 0)));
    }

    #[test]
    fn oldest_makes_room_when_too_many_wait() {
        let feed = feed(1);
        let waiting: Vec<_> = (0..=WAITING).map(|_| ask(&feed, 1, LONG)).collect();

        assert_eq!(told(&waiting[0]), Some((vec![], 1, 0)));
        assert!(waiting[1..].iter().all(|answer| told(answer).is_none()));
    }

    #[test]
    fn nobody_waits_at_the_end() {
        let feed = feed(1);
        let waiting = ask(&feed, 1, LONG);

        feed.end();

        assert_eq!(told(&waiting), Some((vec![], 1, 0)));
        assert_eq!(told(&ask(&feed, 1, LONG)), Some((vec![], 1, 0)));
    }
}
