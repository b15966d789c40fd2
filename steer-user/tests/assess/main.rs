//! `assess` on captures made by hand: what no lab's traffic shows.

mod capture;
mod command;
mod decisions;
mod garbage;
mod memory;
mod messages;
mod mirror;
mod network;
mod options;

use std::{io::Write as _, time::Duration};

use serde_json::Value;
use steer_user::{
    assess::{Options, files},
    config::TicketKeyName,
};

use capture::Capture;

/// Ten minutes, and every server that answers.
fn defaults() -> Options {
    Options {
        members: Vec::new(),
        session_timeout: Duration::from_secs(600),
        ticket_key_name: TicketKeyName::Auto,
    }
}

/// What is said of files with these bytes.
fn assess_files(bytes: &[Vec<u8>], options: Options) -> Value {
    let open = bytes.iter().map(|bytes| {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("room");
        std::io::Seek::rewind(&mut file).expect("its beginning");
        ("test".to_owned(), file)
    });
    let report = files(open.collect(), options, &false.into()).expect("captures");
    serde_json::to_value(report).expect("JSON")
}

/// What is said of one capture.
fn assess(capture: &Capture) -> Value {
    assess_files(&[capture.pcap()], defaults())
}

#[track_caller]
fn number(report: &Value, pointer: &str) -> u64 {
    report
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no number {pointer} in {report}"))
}

/// Asserts numbers by their pointers.
#[track_caller]
fn assert_numbers(report: &Value, numbers: &[(&str, u64)]) {
    for (pointer, expected) in numbers {
        assert_eq!(number(report, pointer), *expected, "{pointer} in {report:#}");
    }
}
