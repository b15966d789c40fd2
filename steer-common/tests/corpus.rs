//! The fuzz targets over their committed corpora, without a fuzzer.

use std::{fs, path::Path};

#[expect(unreachable_pub, reason = "a crate of its own in fuzz/")]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

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
fn client_hellos_are_read_alike_in_any_records() {
    replay("client_hello", fuzz::client_hello::run);
}

#[test]
fn server_flights_tell_the_same_in_any_segments() {
    replay("server_flight", fuzz::server_flight::run);
}

#[test]
fn gathered_data_is_there() {
    replay("gather", fuzz::gather::run);
}

#[test]
fn headers_lie_inside_of_frames() {
    replay("segment", fuzz::segment::run);
}
