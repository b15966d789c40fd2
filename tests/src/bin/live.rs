//! What `cargo xtask verify` runs in another kernel: [`steer_tests::live`], all cases or those
//! whose names contain one of the words given.

use std::{env, process::ExitCode};

use steer_tests::live::CASES;

fn main() -> ExitCode {
    let words = env::args().skip(1).collect::<Vec<_>>();
    let wanted =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let (mut tried, mut failed) = (0, 0);
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        tried += 1;
        match case.run() {
            Ok(found) => eprintln!("live: {found}"),
            Err(error) => {
                failed += 1;
                eprintln!("live: failed: {error:#}");
            }
        }
    }
    if tried == 0 || failed > 0 {
        eprintln!("live: {failed} of {tried} cases failed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
