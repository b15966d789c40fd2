//! Programs of the tests package that work in network namespaces, one for each of the verbs `demo`,
//! `bench`, `soak`, `matrix`, `rotation` and `visits`.

use std::process::Command;

use anyhow::Result;

use crate::{
    build::{self, Profile},
    rights,
    setup::{self, Job},
    tree::Tree,
};

/// Makes all ready for a verb's program, built with these options of cargo. What is returned runs
/// it; its own options may be added.
pub(crate) fn program(
    verb: &str,
    job: Job,
    no_install: bool,
    options: &[&str],
) -> Result<(Tree, Command)> {
    rights::require(verb)?;
    let tree = Tree::find()?;
    setup::ensure(&tree, job, no_install)?;
    let steer = build::steer(&tree, Profile::Release)?;
    let mut program = tree.cargo(&["run", "--release", "--package", "steer-tests", "--bin", verb]);
    program.args(options).arg("--").env("STEER_BIN", steer);
    Ok((tree, program))
}
