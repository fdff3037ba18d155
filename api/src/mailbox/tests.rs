//! The queue's promises: in order, bounded, always answered.

use super::*;
use crate::request::Response;

fn readable(receiver: &Receiver) -> bool {
    let mut poll = libc::pollfd { fd: receiver.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    #[expect(unsafe_code, reason = "the test looks at the descriptor as an event loop would")]
    // SAFETY: one pollfd that outlives the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1
}

#[test]
fn calls_arrive_in_order_and_the_descriptor_says_so() {
    let (sender, receiver) = mailbox().unwrap();
    assert!(!readable(&receiver));

    sender.ask(Request::Ping, Reply::channel().0);
    sender.ask(Request::Info, Reply::channel().0);

    assert!(readable(&receiver));
    assert_eq!(receiver.next().unwrap().request, Request::Ping);
    assert!(readable(&receiver));
    assert_eq!(receiver.next().unwrap().request, Request::Info);
    assert!(receiver.next().is_none());
    assert!(!readable(&receiver));
}

#[test]
fn stored_reply_answers_from_another_thread() {
    let (sender, receiver) = mailbox().unwrap();
    let (reply, answer) = Reply::channel();
    sender.ask(Request::Boot, reply);
    let stored = receiver.next().unwrap().reply;

    let worker = std::thread::Builder::new()
        .name("worker".to_owned())
        .spawn(move || stored.send(Ok(Response::Done)))
        .unwrap();

    assert_eq!(answer.recv().unwrap(), Ok(Response::Done));
    worker.join().unwrap();
}

#[test]
fn dropped_reply_answers_503() {
    let (reply, answer) = Reply::channel();

    drop(reply);

    assert_eq!(answer.recv().unwrap().unwrap_err().status, Status::Busy);
}

#[test]
fn full_queue_answers_503_and_keeps_what_it_has() {
    let (sender, receiver) = mailbox().unwrap();
    for _ in 0..CAPACITY {
        sender.ask(Request::Ping, Reply::channel().0);
    }
    let (reply, answer) = Reply::channel();

    sender.ask(Request::Ping, reply);

    assert_eq!(answer.recv().unwrap().unwrap_err().code, code::API_BUSY);
    assert_eq!(std::iter::from_fn(|| receiver.next()).count(), CAPACITY);
}

#[test]
fn queued_and_later_calls_are_answered_when_the_receiver_has_gone() {
    let (sender, receiver) = mailbox().unwrap();
    let (queued, first) = Reply::channel();
    let (late, second) = Reply::channel();
    sender.ask(Request::Boot, queued);

    drop(receiver);
    sender.ask(Request::Boot, late);

    assert_eq!(first.recv().unwrap().unwrap_err().code, code::VMM_STOPPING);
    assert_eq!(second.recv().unwrap().unwrap_err().code, code::VMM_STOPPING);
}
