//! A server that sends descriptors that it should not.

use std::os::fd::AsRawFd;

use super::*;

/// Sends each byte of `bytes` with so many descriptors, for as long as we listen.
fn send_with_descriptors(peer: &Peer, bytes: &[u8], count: usize) {
    let event = EventFd::new(0).unwrap();
    for byte in bytes {
        wait(&peer.idle, &peer.socket, (false, true)).unwrap();
        if peer.socket.send(&[*byte], &vec![event.as_raw_fd(); count]).is_err() {
            return;
        }
    }
}

fn lost(connection: &Connection, command: Command, words: &[u32]) -> String {
    let body = bytes(words);
    let asked = connection::Question { command, body: &body, most: 64, descriptors: &[] };
    let error = connection.ask(asked, connection.limit()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    error.to_string()
}

#[test]
fn descriptor_that_nobody_has_asked_for_loses_the_connection() {
    let scene = Scene::new(AGES, |peer| {
        let got = peer.next().unwrap();
        send_with_descriptors(&peer, &got.header.reply(0).message(&[]), 1);
    });

    let why = lost(&scene.connection, Command::Reset, &[]);

    assert!(why.contains("descriptors that nobody has asked for"), "{why}");
}

#[test]
fn message_that_comes_in_pieces_brings_no_more_descriptors_than_one_that_comes_whole() {
    let scene = Scene::new(AGES, |peer| {
        let got = peer.next().unwrap();
        let pieces = got.header.reply(32).message(&[0; 32]);
        send_with_descriptors(&peer, &pieces, 3);
    });

    let why = lost(&scene.connection, Command::RegionInfo, &[32, 0, 0, 0, 0, 0, 0, 0]);

    assert!(why.contains("more descriptors than"), "{why}");
}
