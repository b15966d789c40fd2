//! Writes the man pages and the shells' completions of `steer` from the command line's own
//! definition, for packages: `manual DIRECTORY`.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;
use steer_user::cli::Cli;

fn main() -> Result<()> {
    let directory = env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.context("name the directory to write to")?;
    let (pages, completions) = (directory.join("man"), directory.join("completions"));
    for made in [&pages, &completions] {
        fs::create_dir_all(made).with_context(|| format!("make {}", made.display()))?;
    }
    clap_mangen::generate_to(Cli::command(), &pages).context("write the man pages")?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Cli::command(), "steer", &completions)
            .with_context(|| format!("write the completions for {shell}"))?;
    }
    Ok(())
}
