//! A client whose HTTP is right as a rule: it asks, waits for the answer, and checks it.
//!
//! All clients share one VM, which some create and others delete, so an answer is right if some
//! order of all requests explains it; [`Score`] holds them together.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use api::request::code;
use serde_json::Value;

use super::Dice;
use crate::error::{Error, Result, ensure, same};
use crate::http::{Answer, Api, receive};

/// A body that is longer than any valid one, in bytes.
const OVERSIZE: usize = 200 << 10;

/// What one client, or all, have seen.
#[derive(Debug, Default)]
pub(super) struct Score {
    /// How long each answer took.
    pub(super) times: Vec<Duration>,
    /// Answers that were refusals, all of them due.
    pub(super) refused: u64,
    pub(super) created: u64,
    pub(super) deleted: u64,
}

impl Score {
    pub(super) fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.refused += other.refused;
        self.created += other.created;
        self.deleted += other.deleted;
    }
}

/// One question, and which answers are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Ping,
    Info,
    Create,
    Delete,
    Counters,
    NoSuchPath,
    NotYet,
    WrongMethod,
    BadQuery,
    NoJson,
    UnknownField,
    NoHttp,
    TooLarge,
}

/// How often each is asked, in a hundred.
const SHARES: [(usize, Question); 13] = [
    (40, Question::Ping),
    (15, Question::Info),
    (10, Question::Create),
    (10, Question::Delete),
    (5, Question::Counters),
    (4, Question::NoSuchPath),
    (2, Question::NotYet),
    (3, Question::WrongMethod),
    (2, Question::BadQuery),
    (4, Question::NoJson),
    (2, Question::UnknownField),
    (2, Question::NoHttp),
    (1, Question::TooLarge),
];

/// A client with its connection, which it keeps as long as the server does.
pub(super) struct Client<'a> {
    api: &'a Api,
    pid: u32,
    connection: Option<UnixStream>,
    pub(super) score: Score,
}

impl<'a> Client<'a> {
    /// Of the process with this id.
    pub(super) fn new(api: &'a Api, pid: u32) -> Self {
        Self { api, pid, connection: None, score: Score::default() }
    }

    /// Asks something, and fails unless the answer is right.
    pub(super) fn ask(&mut self, dice: &mut Dice) -> Result {
        // Now and then on a connection of its own, as ch-remote does.
        if dice.below(20) == 0 {
            self.connection = None;
        }
        let question = Question::draw(dice);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.api.connect()?,
        };
        let begun = Instant::now();
        // Whoever says too much is answered before the end.
        let sent = connection.write_all(question.text().as_bytes());
        let answer = receive(&mut connection).map_err(|error| {
            Error::Unexpected(format!("{question:?} (sent: {sent:?}) was not answered: {error}"))
        })?;
        self.score.times.push(begun.elapsed());
        if !question.ends_the_connection() {
            self.connection = Some(connection);
        }
        self.judge(question, answer)
    }

    fn judge(&mut self, question: Question, answer: Answer) -> Result {
        if !matches!(answer.status, 200 | 204) {
            self.score.refused += 1;
        }
        match (question, answer.status) {
            (Question::Ping, _) => {
                return same("pid", &answer.ok()?["pid"], &Value::from(self.pid));
            }
            (Question::Info, 200) => {
                return same("state", &answer.ok()?["state"], &Value::from("Created"));
            }
            // A VM that does not run has nothing to count.
            (Question::Counters, 200) => {
                return same("counters", &answer.body.as_str(), &"{}");
            }
            (Question::Create, 204) => self.score.created += 1,
            (Question::Delete, 204) => self.score.deleted += 1,
            (other, _) => {
                let (status, code) = other.refusal();
                return answer.fails(status, code);
            }
        }
        ensure(answer.body.is_empty(), || format!("a body: {}", answer.body))
    }
}

impl Question {
    fn draw(dice: &mut Dice) -> Self {
        let mut at = dice.below(SHARES.iter().map(|(share, _)| share).sum());
        let fits = |(share, _): &&(usize, Self)| {
            let here = at < *share;
            at = at.saturating_sub(*share);
            here
        };
        SHARES.iter().find(fits).map_or(Self::Ping, |(_, question)| *question)
    }

    fn text(self) -> String {
        let get = |verb: &str| format!("GET /api/v1/{verb} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let put = |verb: &str, body: &str| {
            let length = body.len();
            format!("PUT /api/v1/{verb} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        match self {
            Self::Ping => get("vmm.ping"),
            Self::Info => get("vm.info"),
            Self::Create => put("vm.create", r#"{"payload":{"kernel":"/nowhere"}}"#),
            Self::Delete => put("vm.delete", ""),
            Self::Counters => get("vm.counters"),
            Self::NoSuchPath => get("vm.fly"),
            Self::NotYet => put("vm.snapshot", "{}"),
            Self::WrongMethod => get("vm.boot"),
            Self::BadQuery => get("vm.interrupts?id=a&id=b"),
            Self::NoJson => put("vm.add-device", r#"{"path":"/sys/x"#),
            Self::UnknownField => put("vm.remove-device", r#"{"id":"n","colour":"red"}"#),
            Self::NoHttp => "\u{16}\u{3}\u{1} hello\r\n\r\n".to_owned(),
            Self::TooLarge => put("vm.create", &" ".repeat(OVERSIZE)),
        }
    }

    /// The refusal that may come, or must.
    fn refusal(self) -> (u16, &'static str) {
        match self {
            Self::Ping | Self::Info | Self::Delete | Self::Counters => (404, code::VM_NOT_CREATED),
            Self::Create => (400, code::VM_EXISTS),
            Self::NoSuchPath => (404, code::API_NO_SUCH_PATH),
            Self::NotYet => (501, code::API_NOT_IMPLEMENTED),
            Self::WrongMethod => (405, code::API_WRONG_METHOD),
            Self::BadQuery => (400, code::API_BAD_QUERY),
            Self::NoJson | Self::UnknownField => (400, code::API_BAD_BODY),
            Self::NoHttp => (400, code::API_BAD_HTTP),
            Self::TooLarge => (413, code::API_TOO_LARGE),
        }
    }

    fn ends_the_connection(self) -> bool {
        matches!(self, Self::NoHttp | Self::TooLarge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_is_asked_about_as_often_as_its_share() {
        let mut dice = Dice::new(1, 1);
        let asked: Vec<Question> = (0..10_000).map(|_| Question::draw(&mut dice)).collect();

        for (share, question) in SHARES {
            let times = asked.iter().filter(|asked| **asked == question).count();
            assert!((share * 70..share * 130).contains(&times), "{question:?}: {times}");
        }
    }
}
