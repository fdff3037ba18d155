//! `hotbayctl`: controls a running hotbay over its API socket, like ch-remote.

use std::io::Write;
use std::process::ExitCode;

use api::cli::Line;
use api::cli::hotbayctl::parse;

fn main() -> ExitCode {
    let outcome = match parse(std::env::args_os()) {
        Ok(Line::Do(errand)) => errand.run(),
        Ok(Line::Say(text)) => Ok(text),
        Err(misuse) => Err(misuse.to_string()),
    };
    match outcome {
        Ok(text) => print(text.trim_end()),
        Err(reason) => {
            eprintln!("hotbayctl: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever reads our output may stop in the middle (`hotbayctl info | head`).
fn print(text: &str) -> ExitCode {
    if !text.is_empty() {
        let _ = writeln!(std::io::stdout(), "{text}");
    }
    ExitCode::SUCCESS
}
