//! What `hotbayctl` says about itself: completions of a shell, and manual pages.

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::super::Misuse;
use super::arguments::Arguments;

/// A script that makes `shell` complete hotbayctl's words.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "hotbayctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The manual page of hotbayctl, or of one subcommand, in troff.
pub(super) fn page(subcommand: Option<&str>) -> Result<String, Misuse> {
    let command = match subcommand {
        None => Arguments::command(),
        Some(name) => {
            of(name).ok_or_else(|| Misuse(format!("man {name}: there is no such subcommand")))?
        }
    };
    let mut page = Vec::new();
    let written = Man::new(command).render(&mut page);
    written.map_err(|error| Misuse(format!("cannot write the page: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn of(name: &str) -> Option<Command> {
    let mut all = Arguments::command();
    // Lets the subcommands know the options they share.
    all.build();
    all.find_subcommand(name).cloned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_completes_every_subcommand() {
        for shell in Shell::value_variants() {
            let script = completions(*shell);
            for command in Arguments::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }

    #[test]
    fn every_subcommand_has_a_page() {
        let all = page(None).unwrap();
        for command in Arguments::command().get_subcommands() {
            let name = command.get_name();
            assert!(all.contains(&name.replace('-', "\\-")), "{name}");
            assert!(page(Some(name)).unwrap().contains(".SH SYNOPSIS"), "{name}");
        }
        assert!(page(Some("fly")).is_err());
    }
}
