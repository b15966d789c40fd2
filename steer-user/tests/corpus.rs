//! The fuzz targets of this crate over their committed corpora, without a fuzzer.

use std::{fs, path::Path};

use steer_user::{config, control as request, inspect};

#[expect(unreachable_pub, reason = "part of a fuzz target")]
#[path = "../../fuzz/src/user/capture.rs"]
mod capture_target;
#[expect(unreachable_pub, reason = "part of a fuzz target")]
#[path = "../../fuzz/src/user/config.rs"]
mod config_target;
#[expect(unreachable_pub, reason = "part of a fuzz target")]
#[path = "../../fuzz/src/user/request.rs"]
mod request_target;

fn replay(target: &str, run: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut n = 0;
    for entry in fs::read_dir(&directory).expect("the corpus") {
        run(&fs::read(entry.expect("an entry").path()).expect("an input"));
        n += 1;
    }
    assert!(n > 0, "{} is empty", directory.display());
}

#[test]
fn files_are_taken_or_refused_at_a_line() {
    replay("config", config_target::run);
}

#[test]
fn lines_are_requests_or_refused_with_a_reason() {
    replay("request", request_target::run);
}

#[test]
fn captures_give_rows_within_bounds() {
    replay("capture", capture_target::run);
}
