//! Writes the man pages and what completes command lines in bash, fish and zsh, all made of the flags:
//! `cargo run --example manual -- DIRECTORY`.

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use crema::config::Flags;

fn main() -> ExitCode {
    let Some(directory) = env::args_os().nth(1) else {
        eprintln!("manual DIRECTORY: where man pages and completions are to be written");
        return ExitCode::from(2);
    };
    if let Err(error) = write(Path::new(&directory)) {
        eprintln!("{}: {error}", Path::new(&directory).display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Into `man` and `completions` under this directory, which are made.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(Flags::command(), &man)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Flags::command(), "crema", &completions)?;
    }
    Ok(())
}
