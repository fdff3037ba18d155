//! The exact bytes of every subcommand of ch-remote, sent to the real program over its
//! real socket, with a guest on the real kernel: once whole, and once in the pieces in
//! which ch-remote writes them. What comes back is read as strictly as ch-remote reads it,
//! and must be declared in the OpenAPI file.

use crate::contract::Contract;
use crate::program::{Program, has_hypervisor, kernel};
use crate::session::{SESSION, SUBCOMMANDS, Says, Step};
use crate::wire::{Answer, Manner, ask};

/// Plays the whole session against a program of its own.
fn play(manner: Manner) {
    if !has_hypervisor() {
        return;
    }
    let (folder, kernel) = kernel();
    let program = Program::start(folder.path());
    let contract = Contract::load();
    for step in SESSION {
        let body = step.body.map(|body| body.replace("KERNEL", kernel.to_str().unwrap()));
        let answer = ask(&program.socket, step.request, body.as_deref(), manner);
        check(step, &answer);
        let (_, verb) = step.request.split_once(' ').unwrap();
        assert_eq!(contract.declares(verb, step.status, answer.body.as_deref()), Ok(()));
    }
    program.has_ended_well();
}

fn check(step: &Step, answer: &Answer) {
    let about = format!("{} after {:?}: {answer:?}", step.request, step.body);
    assert_eq!(answer.status_line, format!("HTTP/1.1 {} ", step.status), "{about}");
    match step.says {
        Says::Nothing => assert_eq!(answer.body, None, "{about}"),
        Says::Json(part) => assert!(answer.body.as_ref().unwrap().contains(part), "{about}"),
        Says::Refusal(code) => {
            let strings: Vec<String> =
                serde_json::from_str(answer.body.as_ref().unwrap()).expect(&about);
            assert!(strings[0].starts_with(&format!("[{code}] ")), "{about}");
        }
    }
}

#[test]
fn whole_requests_are_answered_as_ch_remote_reads_it() {
    play(Manner::Whole);
}

#[test]
fn requests_in_four_pieces_are_answered_as_ch_remote_reads_it() {
    play(Manner::Pieces);
}

#[test]
fn session_has_every_subcommand() {
    let missing: Vec<_> =
        SUBCOMMANDS.iter().filter(|verb| !SESSION.iter().any(|step| step.is(verb))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
