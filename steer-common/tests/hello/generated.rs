//! Generated hellos.

use proptest::{option::of, prelude::*, test_runner::RngSeed};

use crate::{Read, oracle, read, record};

/// An extension: its number and body.
type Extension = (u16, Vec<u8>);

/// A ClientHello.
#[derive(Clone, Debug)]
struct Recipe {
    legacy_version: u16,
    id: Vec<u8>,
    n_suites: u16,
    extensions: Option<Vec<Extension>>,
}

impl Recipe {
    fn message(&self) -> Vec<u8> {
        let suites = vec![0xc0; usize::from(self.n_suites) * 2];
        let mut body =
            [&self.legacy_version.to_be_bytes()[..], &[0x5a; 32], &[self.id.len() as u8], &self.id]
                .concat();
        body.extend((suites.len() as u16).to_be_bytes());
        body.extend(suites);
        body.extend([1, 0]);
        if let Some(extensions) = &self.extensions {
            let list: Vec<u8> =
                extensions.iter().flat_map(|(kind, body)| sized(*kind, body)).collect();
            body.extend((list.len() as u16).to_be_bytes());
            body.extend(list);
        }
        let len = (body.len() as u32).to_be_bytes();
        [&[1, len[1], len[2], len[3]][..], &body].concat()
    }
}

fn sized(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// Bytes behind a length of two.
fn list(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn bytes(len: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), len)
}

fn versions() -> impl Strategy<Value = Extension> {
    let version = prop::sample::select(vec![
        0x0304u16, 0x0303, 0x0302, 0x0301, 0x0300, 0x7f1c, 0x0a0a, 0xfafa,
    ]);
    prop::collection::vec(version, 1..8).prop_map(|versions| {
        let list: Vec<u8> = versions.iter().flat_map(|version| version.to_be_bytes()).collect();
        (43, [&[list.len() as u8], &list[..]].concat())
    })
}

fn server_name() -> impl Strategy<Value = Extension> {
    "[a-z.]{1,60}".prop_map(|name| (0, list(&[&[0][..], &list(name.as_bytes())].concat())))
}

fn pre_shared_key() -> impl Strategy<Value = Extension> {
    (prop::collection::vec(bytes(1..300), 1..7), bytes(32..80)).prop_map(|(identities, binders)| {
        let identities: Vec<u8> =
            identities.iter().flat_map(|id| [&list(id)[..], &[1, 2, 3, 4]].concat()).collect();
        (41, [list(&identities), list(&binders)].concat())
    })
}

/// One of each kind at most, in any order, the PSK last as it must be.
fn extensions() -> impl Strategy<Value = Vec<Extension>> {
    let unknown = prop::sample::select(vec![0x2b00u16, 0x2923, 0x7777, 0x0a0a, 0xfe0d]);
    let others = prop::collection::vec((unknown, bytes(0..60)), 0..6);
    let ticket = prop_oneof![Just(Vec::new()), bytes(1..200), bytes(2000..3500)];
    (
        of(versions()),
        of(server_name()),
        of(ticket),
        others,
        of(pre_shared_key()),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(versions, name, ticket, others, psk, turn)| {
            let mut all: Vec<Extension> = versions
                .into_iter()
                .chain(name)
                .chain(ticket.map(|ticket| (35, ticket)))
                .chain(others)
                .collect();
            if !all.is_empty() {
                let turn = turn.index(all.len());
                all.rotate_left(turn);
            }
            all.extend(psk);
            all
        })
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let legacy = prop::sample::select(vec![0x0301u16, 0x0302, 0x0303]);
    (legacy, bytes(0..=32), 1u16..80, proptest::option::weighted(0.9, extensions())).prop_map(
        |(legacy_version, id, n_suites, extensions)| Recipe {
            legacy_version,
            id,
            n_suites,
            extensions,
        },
    )
}

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0x5eed),
        asked => asked,
    };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 2_000 };
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..default }
}

proptest! {
    // The same on every run; PROPTEST_CASES asks for more, PROPTEST_RNG_SEED for others.
    #![proptest_config(config())]

    #[test]
    fn is_read_as_tls_parser_reads_it(recipe in recipe(), piece in 1usize..2000) {
        let message = recipe.message();
        let expected = Read::Hello(oracle::offer(&message).expect("tls-parser reads it"));
        prop_assert_eq!(&read(&record(&message)), &expected);
        let split: Vec<u8> = message.chunks(piece.max(message.len() / 1000 + 1)).flat_map(record).collect();
        prop_assert_eq!(&read(&split), &expected);
    }

    #[test]
    fn cut_short_needs_more(recipe in recipe(), cut in any::<prop::sample::Index>()) {
        let stream = record(&recipe.message());
        let cut = cut.index(stream.len());
        // Behind the compression methods of a hello without extensions nothing is missed.
        let nothing_behind = recipe.extensions.is_none() && cut + 1 == stream.len();
        prop_assert!(read(&stream[..cut]) == Read::NeedMore || nothing_behind);
    }

    #[test]
    fn with_bytes_that_lie_is_refused_or_read_alike(
        recipe in recipe(),
        lies in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut message = recipe.message();
        for (at, byte) in lies {
            // The message's own length stays: what lies behind it is not there.
            let at = 4 + at.index(message.len() - 4);
            message[at] = byte;
        }
        let (ours, oracle) = (read(&record(&message)), oracle::offer(&message));
        if let (Read::Hello(ours), Some(oracle)) = (&ours, &oracle) {
            prop_assert_eq!(ours, oracle);
        }
        prop_assert_ne!(ours, Read::NeedMore);
    }

    #[test]
    fn no_bytes_whatever_make_a_parser_panic(mut stream in bytes(0..600), len in 0u16..700) {
        for (byte, fixed) in stream.iter_mut().zip([22, 3, 1, 2, 0, 1, 0, (len >> 8) as u8, len as u8, 3, 3]) {
            *byte = fixed;
        }
        let _ = read(&stream);
    }
}
