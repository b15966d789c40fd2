//! The fuzz targets over their committed corpora, without a fuzzer.

#[expect(unreachable_pub, reason = "a crate of its own in fuzz/")]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

use replay::replay;

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
