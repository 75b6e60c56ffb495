//! What a package holds beside the program: man pages and completions, made of the flags.

#[allow(dead_code, reason = "its main is not called")]
#[path = "../examples/manual.rs"]
mod manual;

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use crema::config::Flags;

use common::is_installed;

/// What a program says, or nothing where it is missing.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    if !is_installed(program) {
        return None;
    }
    let output = Command::new(program).args(arguments).output().expect("it is there");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    Some(said)
}

fn written() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    manual::write(directory.path()).expect("our own directory");
    directory
}

fn path(directory: &Path, name: &str) -> String {
    directory.join(name).display().to_string()
}

#[test]
fn the_man_page_has_every_flag_and_is_set_without_a_word() {
    let directory = written();
    let pages = ["man/crema.1", "man/crema-healthcheck.1"].map(|name| path(directory.path(), name));
    let page = fs::read_to_string(&pages[0]).expect("it was written").replace("\\-", "-");
    for flag in Flags::command().get_arguments().filter_map(|argument| argument.get_long()) {
        assert!(page.contains(&format!("--{flag}")), "--{flag} is not on the man page");
    }
    for page in &pages {
        let complaint = said("groff", &["-man", "-Tutf8", "-ww", "-z", page]);
        assert_eq!(complaint.unwrap_or_default(), "");
    }
}

#[test]
fn shells_complete_flags_and_tasks() {
    let directory = written();
    let bash = path(directory.path(), "completions/crema.bash");
    let complete = |word: &str| {
        let script = format!(
            "set -e; source {bash}; COMP_WORDS=(crema {word}); COMP_CWORD=1; _crema crema {word} crema || true; \
             echo \"${{COMPREPLY[@]}}\""
        );
        said("bash", &["-c", &script]).expect("bash is there")
    };
    assert_eq!(complete("--l1-s"), "--l1-size\n");
    assert_eq!(complete("hea"), "healthcheck\n");
    for (shell, file) in [("fish", "completions/crema.fish"), ("zsh", "completions/_crema")] {
        said(shell, &["-n", &path(directory.path(), file)]);
    }
}
