//! `hotbay`: a virtual machine monitor that hot-plugs host PCI functions.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use api::cli::{Line, hotbay};
use vmm::{lifecycle, process};

fn main() -> ExitCode {
    let outcome = match hotbay::parse(env::args_os()) {
        Ok(Line::Do(args)) => process::run(args).map_err(|error| lifecycle::chain(&error)),
        Ok(Line::Say(text)) => io::stdout().write_all(text.as_bytes()).map_err(|e| e.to_string()),
        Err(misuse) => Err(misuse.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("hotbay: {sentence}");
            ExitCode::FAILURE
        }
    }
}
