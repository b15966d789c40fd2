//! Whether the client had a certificate, as its second flight tells, however it is cut, repeated
//! and lied about.

use steer_common::{
    learn::{Certificate, certificate},
    shared::Flow,
    wire::tls::client_certificate::{ANSWER_LEN, Answer, HELLO_BYTES, Place, hello_len, place},
};

use crate::{
    Follower, Offered,
    flights::{
        certificate as certificate_message, done, finished, first_flight, message, record,
        server_hello,
    },
};

const ID: [u8; 32] = crate::flights::ID;
/// Sequence number of the first byte behind the hello; it wraps inside of what is looked at.
const BEHIND: u32 = u32::MAX - 4;

/// A client's Certificate message with a list of so many bytes.
fn answer(list: usize) -> Vec<u8> {
    let len = (list as u32).to_be_bytes();
    message(11, &[&len[1..], &vec![0x30; list]].concat())
}

fn read(stream: &[u8]) -> Answer {
    Answer::read(stream.first_chunk::<ANSWER_LEN>().expect("as many bytes as are looked at"))
}

/// A full handshake's first flight with a CertificateRequest in it.
fn asking_flight() -> Vec<u8> {
    let request = message(13, &[1, 1, 0, 2, 4, 3, 0, 0]);
    [server_hello(&ID, &[]), certificate_message(), request, done()]
        .iter()
        .flat_map(|m| record(0x16, m))
        .collect()
}

/// The flow of a full handshake in which the client answered so.
fn flow(flight: &[u8], answer: Answer) -> Flow {
    let mut follower = Follower::new(Offered::Nothing);
    follower.flow.answer = answer as u8;
    follower.segment(0, flight);
    follower.segment(flight.len(), &finished());
    follower.flow
}

#[test]
fn a_list_of_certificates_is_told_from_an_empty_one() {
    assert_eq!(read(&record(0x16, &answer(700))), Answer::Given);
    assert_eq!(read(&record(0x16, &answer(0))), Answer::Empty);
    // JSSE and others put the messages behind it into the same record.
    assert_eq!(read(&record(0x16, &[answer(700), message(16, &[0; 66])].concat())), Answer::Given);
    assert_eq!(read(&record(0x16, &[answer(0), message(16, &[0; 66])].concat())), Answer::Empty);
    // A chain longer than a record goes on in the next one.
    assert_eq!(read(&record(0x16, &answer(20_000)[..16384])), Answer::Given);
}

#[test]
fn what_is_no_certificate_message_is_unclear() {
    let key_exchange = record(0x16, &message(16, &[0; 66]));
    let alert = [record(0x15, &[1, 41]), key_exchange.clone()].concat();
    let cut_by_records =
        [record(0x16, &answer(700)[..6]), record(0x16, &answer(700)[6..])].concat();
    let data = record(0x17, &[0x0b; 40]);
    for stream in [key_exchange, alert, cut_by_records, data, finished()] {
        assert_eq!(read(&stream), Answer::Unclear, "{stream:02x?}");
    }
}

/// A client may choose the first bytes behind its Finished's record header, not its meaning: the
/// lengths betray them.
#[test]
fn lengths_that_disagree_are_unclear() {
    let mut forged = record(0x16, &answer(700));
    forged[11] ^= 1;
    assert_eq!(read(&forged), Answer::Unclear);
    let mut longer = record(0x16, &answer(700));
    longer[8] ^= 1;
    assert_eq!(read(&longer), Answer::Unclear);
}

#[test]
fn only_a_certificate_is_learned_from_where_one_was_asked_for() {
    let asked = |answer| certificate(&flow(&asking_flight(), answer));
    assert_eq!(asked(Answer::Given), Certificate::Given);
    assert_eq!(asked(Answer::Empty), Certificate::Missing);
    assert_eq!(asked(Answer::Unclear), Certificate::Unseen);
    assert_eq!(asked(Answer::Unseen), Certificate::Unseen);
}

#[test]
fn nothing_is_expected_where_none_was_asked_for() {
    for answer in [Answer::Unseen, Answer::Unclear] {
        assert_eq!(certificate(&flow(&first_flight(&ID, &[]), answer)), Certificate::NotAsked);
    }
}

#[test]
fn an_empty_list_counts_even_where_the_request_was_missed() {
    let hello = record(0x16, &server_hello(&ID, &[]));
    let with = |answer: Answer| {
        let mut follower = Follower::new(Offered::Nothing);
        follower.flow.answer = answer as u8;
        follower.segment(0, &hello);
        follower.segment(asking_flight().len(), &finished());
        certificate(&follower.flow)
    };
    assert_eq!(with(Answer::Empty), Certificate::Missing);
    assert_eq!(with(Answer::Given), Certificate::Given);
    assert_eq!(with(Answer::Unseen), Certificate::NotAsked);
}

#[test]
fn the_request_is_seen_wherever_the_flight_is_cut() {
    let flight = asking_flight();
    for size in [1, 2, 3, 5, 7, 100, 1000] {
        let mut follower = Follower::new(Offered::Nothing);
        for (number, piece) in flight.chunks(size).enumerate() {
            follower.segment(number * size, piece);
        }
        assert_eq!(certificate(&follower.flow), Certificate::Unseen, "pieces of {size}");
    }
}

#[test]
fn one_copy_without_a_certificate_spoils_all_others() {
    use Answer::{Empty, Given, Unclear, Unseen};
    for (copies, known) in [
        (&[Given, Given][..], Given),
        (&[Given, Empty], Empty),
        (&[Empty, Given], Empty),
        (&[Given, Unclear, Given], Unclear),
        (&[Unclear, Empty, Given], Empty),
        (&[Unseen, Given, Unseen], Given),
    ] {
        assert_eq!(copies.iter().fold(Unseen, |known, copy| known.and(*copy)), known, "{copies:?}");
    }
}

#[test]
fn bytes_are_found_wherever_the_segment_begins() {
    const N: u32 = ANSWER_LEN as u32;
    let found = |seq: i32, len| place(BEHIND, N, BEHIND.wrapping_add_signed(seq), len);
    assert_eq!(found(0, N), Place::At(0));
    assert_eq!(found(-200, 1400), Place::At(200));
    assert_eq!(found(-200, 200 + N), Place::At(200));
    for (seq, len) in [(0, N - 1), (1, 1400), (N as i32 - 1, 1400), (-200, 201), (0, 1)] {
        assert_eq!(found(seq, len), Place::Cut, "{seq} {len}");
    }
    for (seq, len) in [(N as i32, 1400), (-200, 200), (-1, 1), (0, 0), (60_000, 10)] {
        assert_eq!(found(seq, len), Place::Elsewhere, "{seq} {len}");
    }
}

#[test]
fn the_end_of_a_hello_is_known_by_its_first_bytes() {
    let len = |stream: &[u8]| {
        hello_len(stream.first_chunk::<HELLO_BYTES>().expect("as many bytes as are looked at"))
    };
    let hello = message(1, &[3; 200]);
    assert_eq!(len(&record(0x16, &hello)), 209);
    assert_eq!(len(&record(0x16, &hello[..100])), 0, "it goes on in another record");
    assert_eq!(
        len(&record(0x16, &[&hello[..], &answer(0)].concat())),
        0,
        "its record goes on behind it"
    );
    assert_eq!(len(b"GET / HTTP/1.1\r\n"), 0);
}
