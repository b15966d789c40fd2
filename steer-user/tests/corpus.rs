//! The fuzz targets of this crate over their committed corpora, without a fuzzer.

use replay::replay;
use steer_user::{assess, config, control as request, ha::record, inspect};

#[expect(unreachable_pub, reason = "part of a fuzz target")]
#[path = "../../fuzz/src/user/assess.rs"]
mod assess_target;
#[expect(unreachable_pub, reason = "part of a fuzz target")]
#[path = "../../fuzz/src/user/capture.rs"]
mod capture_target;
#[expect(unreachable_pub, reason = "part of a fuzz target")]
#[path = "../../fuzz/src/user/config.rs"]
mod config_target;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[expect(unreachable_pub, reason = "part of a fuzz target")]
#[path = "../../fuzz/src/user/request.rs"]
mod request_target;

#[expect(unreachable_pub, reason = "part of a fuzz target")]
#[path = "../../fuzz/src/user/rows.rs"]
mod rows_target;

#[test]
fn rows_are_read_or_refused() {
    replay("rows", rows_target::run);
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

#[test]
fn frames_give_numbers_that_agree() {
    replay("assess", assess_target::run);
}
