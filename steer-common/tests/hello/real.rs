//! Hellos of real clients.

use steer_common::wire::tls::Version;

use crate::{
    Offer, Read, bytes_of,
    fixtures::{GO12, JAVA12, NSS12, OPENSSL12_FULL, OPENSSL12_RESUMED, OPENSSL13, bytes, streams},
    oracle, padded, read, record, walk,
};

/// A recorded stream's first message.
fn message(stream: &[u8]) -> &[u8] {
    &stream[5..9 + usize::from(u16::from_be_bytes([stream[7], stream[8]]))]
}

fn expected(stream: &[u8]) -> Offer {
    oracle::offer(message(stream)).expect("tls-parser reads it")
}

#[test]
fn are_read_as_tls_parser_reads_them() {
    for (file, stream) in streams(".client") {
        assert_eq!(read(&stream), Read::Hello(expected(&stream)), "{file}");
    }
}

#[test]
fn offer_what_their_stack_is_known_to_offer() {
    for (hex, version, id_len, has_ticket) in [
        (OPENSSL12_FULL, Version::Tls12, 0, false),
        (OPENSSL12_RESUMED, Version::Tls12, 32, false),
        (OPENSSL13, Version::Tls13, 32, false),
        (GO12, Version::Tls12, 32, false),
        (JAVA12, Version::Tls12, 32, false),
        (NSS12, Version::Tls12, 32, false),
    ] {
        let Read::Hello(offer) = read(&bytes(hex)) else { panic!("no hello") };
        assert_eq!((offer.version, offer.session_id.len()), (version as u16, id_len));
        assert_eq!(!offer.ticket.is_empty(), has_ticket);
        assert_eq!((offer.n_psk, offer.ech), (0, false));
    }
}

#[test]
fn cut_short_anywhere_need_more() {
    for (file, stream) in streams(".client") {
        let end = 5 + message(&stream).len();
        for len in 0..end {
            assert_eq!(read(&stream[..len]), Read::NeedMore, "{file} at {len}");
        }
        assert_eq!(read(&stream[..end]), Read::Hello(expected(&stream)), "{file}");
    }
}

#[test]
fn cut_short_anywhere_show_nothing_but_what_is_there() {
    for (file, stream) in streams(".client") {
        let (len, whole) = (message(&stream).len() as u32, expected(&stream));
        let padded = padded(&stream);
        for end in 5..5 + len {
            let (read, hello) = walk(&padded, 5, len, end);
            assert_eq!(read, Read::NeedMore, "{file} at {end}");
            for (span, bytes) in [
                (hello.session_id, &whole.session_id),
                (hello.ticket, &whole.ticket),
                (hello.server_name, &whole.server_name),
            ] {
                if hello.at_hand(span, u32::MAX) {
                    assert!(span.at + span.len <= end);
                    assert_eq!(&bytes_of(&padded, span), bytes, "{file} at {end}");
                }
            }
        }
    }
}

#[test]
fn say_the_same_split_over_two_records_anywhere() {
    for (file, stream) in streams(".client") {
        let message = message(&stream);
        for at in 1..message.len() {
            let split = [record(&message[..at]), record(&message[at..])].concat();
            assert_eq!(read(&split), Read::Hello(expected(&stream)), "{file} at {at}");
            assert_eq!(read(&split[..split.len() - 1]), Read::NeedMore, "{file} at {at}");
        }
    }
}

#[test]
fn say_the_same_in_records_of_any_size() {
    for (file, stream) in streams(".client") {
        for size in 1..70 {
            let split: Vec<u8> = message(&stream).chunks(size).flat_map(record).collect();
            assert_eq!(read(&split), Read::Hello(expected(&stream)), "{file} in records of {size}");
        }
    }
}

#[test]
fn say_the_same_with_what_follows_them_in_their_last_record() {
    for (file, stream) in streams(".client") {
        let message = message(&stream);
        let early_data = [&[23, 3, 3, 0, 4], &b"GET "[..]].concat();
        for split in [
            record(&[message, &[0x2a; 9]].concat()),
            [record(&message[..40]), record(&[&message[40..], &[0x2a; 9][..]].concat())].concat(),
            [record(message), early_data].concat(),
        ] {
            assert_eq!(read(&split), Read::Hello(expected(&stream)), "{file}");
        }
    }
}
