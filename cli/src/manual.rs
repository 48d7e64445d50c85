//! The manual pages and the completions in the repository are about the command, the options and the settings that there are.

use crate::args::Args;
use crate::{enroot, singularity};
use clap::CommandFactory;
use clap_complete::{Shell, generate};
use pyxis_runtime::request::{Kind, OPTIONS};
use std::path::PathBuf;

const COMMAND: &str = include_str!("../../docs/man/pyxis.1");
const ENROOT: &str = include_str!("../../docs/man/names/enroot.1");
const SINGULARITY: &str = include_str!("../../docs/man/names/singularity.1");
const SETTINGS: &str = include_str!("../../docs/man/pyxis.toml.5");

/// The items of a page: what stands behind `.It`, between its commas.
fn items(page: &str) -> impl Iterator<Item = &str> {
    let lines = page.lines().filter_map(|line| line.strip_prefix(".It "));
    lines.flat_map(|line| line.split(" , "))
}

fn has_item(page: &str, words: &str) -> bool {
    let mut rests = items(page).filter_map(|item| item.strip_prefix(words));
    rests.any(|rest| rest.is_empty() || rest.starts_with(' '))
}

#[test]
fn pyxis_1_has_each_command_and_option() {
    is_described(&Args::command(), COMMAND);
}

#[test]
fn the_pages_of_other_names_have_each_command_and_option() {
    is_described(&enroot::args::Args::command(), ENROOT);
    is_described(&singularity::args::Args::command(), SINGULARITY);
}

fn is_described(command: &clap::Command, page: &str) {
    let commands: Vec<_> = command.get_subcommands().collect();
    for one in &commands {
        assert!(has_item(page, &format!("Cm {}", one.get_name())), "{}", one.get_name());
    }
    let options = commands
        .iter()
        .flat_map(|one| one.get_arguments())
        .chain(command.get_arguments());
    for option in options {
        let short = option.get_short().map(|short| format!("Fl {short}"));
        let long = option.get_long().map(|long| format!("Fl Fl {long}"));
        for words in [short, long].into_iter().flatten() {
            // Help has no entry of its own.
            assert!(has_item(page, &words) || words.ends_with("help"), "{words}");
        }
    }
}

#[test]
fn pyxis_1_has_each_option_of_jobs() {
    for option in OPTIONS {
        assert!(
            has_item(COMMAND, &format!("Fl Fl {}", option.name)),
            "--{}",
            option.name
        );
        let takes = COMMAND.contains(&format!(".It Fl Fl {} Ns = Ns Ar ", option.name));
        assert_eq!(takes, matches!(option.kind, Kind::Text(_)), "--{}", option.name);
        if let Some(variable) = option.variable {
            assert!(COMMAND.contains(&format!(".Pq Ev {variable}\n")), "{variable}");
        }
    }
}

/// The installed file lists all settings: the runtime's tests see to that.
#[test]
fn pyxis_toml_5_has_each_setting_in_its_section() {
    let mut section = "";
    for line in include_str!("../../packaging/pyxis.toml").lines() {
        if line.starts_with('[') {
            section = SETTINGS.split(&format!(".Ss {line}\n")).nth(1).unwrap_or_default();
            section = section.split("\n.Ss ").next().unwrap_or_default();
            section = section.split("\n.Sh ").next().unwrap_or_default();
            assert_ne!(section, "", "{line}");
        }
        let name = line.strip_prefix("# ").and_then(|line| line.split_once(" = "));
        if let Some((name, _)) = name.filter(|(name, _)| !name.contains(' ')) {
            let named = items(section).any(|item| item.trim_start_matches("Ic ") == name);
            assert!(named, "{name}");
        }
    }
}

/// `COMPLETIONS=write cargo test -p pyxis completions` writes them anew.
#[test]
fn completions_are_those_of_the_command() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/completions");
    for (shell, name) in [
        (Shell::Bash, "pyxis.bash"),
        (Shell::Zsh, "_pyxis"),
        (Shell::Fish, "pyxis.fish"),
    ] {
        let mut text = Vec::new();
        generate(shell, &mut Args::command(), "pyxis", &mut text);
        let path = directory.join(name);
        if std::env::var("COMPLETIONS").as_deref() == Ok("write") {
            std::fs::write(&path, &text).unwrap();
        }
        assert!(
            std::fs::read(path).unwrap() == text,
            "{name} is old: see the comment of this test"
        );
    }
}
