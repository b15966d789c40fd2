//! `cargo xtask doc`: the documentation of all crates but the programs, private items too; a
//! warning is an error.
//!
//! The programs need another compiler, and nothing in them is public.

use anyhow::Result;

use crate::{
    command,
    setup::{self, Job},
    tree::Tree,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Show it in a browser.
    #[arg(long)]
    open: bool,
    /// Only report what is missing, install nothing.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let tree = Tree::find()?;
    setup::ensure(&tree, Job::Build, arguments.no_install)?;
    build(&tree, arguments.open)
}

/// Builds it. Dependencies are checked, not documented: behind clippy that takes seconds.
pub(crate) fn build(tree: &Tree, open: bool) -> Result<()> {
    let mut cargo = tree.cargo(&[
        "doc",
        "--workspace",
        "--exclude",
        "steer-ebpf",
        "--no-deps",
        "--document-private-items",
    ]);
    // Who reads this changes the code: links from public items to private ones are meant.
    cargo.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links");
    if open {
        cargo.arg("--open");
    }
    command::run(&mut cargo)
}
