//! `cargo xtask VERB`: the project's chores. One verb a file; `setup` is what all of them begin
//! with.

mod bench;
mod budget;
mod build;
mod ci;
mod command;
mod demo;
mod dist;
mod doc;
mod fuzz;
mod lab;
mod matrix;
mod monitoring;
mod report;
mod rights;
mod rotation;
mod setup;
mod soak;
mod test;
mod toolchain;
mod tree;
mod verify;
mod visits;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the steer project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is needed: compiler and linker for eBPF, tools for demo and tests.
    Setup(setup::Arguments),
    /// Build the binary `steer` with its eBPF programs inside.
    Build(build::Arguments),
    /// Make packages with checksums and a list of what they are built from, and try them.
    Dist(dist::Arguments),
    /// Show the main job: resuming clients reach the backend that holds their session.
    Demo(demo::Arguments),
    /// Run the tests.
    Test(test::Arguments),
    /// Judge steer with other TLS stacks at both ends, beside plain layer 4 and HAProxy.
    Matrix(matrix::Arguments),
    /// Measure what steer keeps where servers make new ticket keys by themselves.
    Rotation(rotation::Arguments),
    /// Measure clients whose addresses change, at servers whose sessions cannot be known or never
    /// resume.
    Visits(visits::Arguments),
    /// Try alert rules and dashboard with a Prometheus that scrapes an agent.
    Monitoring(monitoring::Arguments),
    /// Load the programs into the running kernel and into others, and compare what the verifier
    /// counted.
    Verify(verify::Arguments),
    /// Measure.
    Bench(bench::Arguments),
    /// Mixed traffic for minutes, chaos every few seconds, and what is left of it.
    Soak(soak::Arguments),
    /// Fuzz the parsers and the buffering.
    Fuzz(fuzz::Arguments),
    /// Build the documentation of all crates but the programs; a warning is an error.
    Doc(doc::Arguments),
    /// Run what must pass before a change is taken.
    Ci(ci::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Setup(arguments) => setup::run(&arguments),
        Verb::Build(arguments) => build::run(&arguments),
        Verb::Dist(arguments) => dist::run(&arguments),
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Matrix(arguments) => matrix::run(&arguments),
        Verb::Rotation(arguments) => rotation::run(&arguments),
        Verb::Visits(arguments) => visits::run(&arguments),
        Verb::Monitoring(arguments) => monitoring::run(&arguments),
        Verb::Verify(arguments) => verify::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Soak(arguments) => soak::run(&arguments),
        Verb::Fuzz(arguments) => fuzz::run(&arguments),
        Verb::Doc(arguments) => doc::run(&arguments),
        Verb::Ci(arguments) => ci::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
