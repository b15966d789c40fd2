//! Files that nobody should send: they end with words, never a panic.

use std::{fs, path::Path};

use proptest::prelude::*;
use steer_user::assess::{files, html};

use crate::{
    capture::{A, Answer, Capture, Hello},
    defaults,
};

fn survives(bytes: &[u8]) {
    use std::io::{Seek as _, Write as _};
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).and_then(|()| file.rewind()).expect("room");
    if let Ok(report) = files(vec![("test".to_owned(), file)], defaults(), &false.into()) {
        serde_json::to_string(&report).expect("JSON");
        assert!(html::page(&report).ends_with("</html>\n"));
    }
}

fn captures() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let files =
        fs::read_dir(directory).expect("the captures").map(|entry| entry.expect("an entry").path());
    files
        .filter(|path| path.extension().is_some_and(|e| e != "jsonl"))
        .map(|path| fs::read(path).expect("a file"))
        .collect()
}

#[test]
fn recorded_captures_cut_anywhere_survive() {
    for capture in captures() {
        for len in (0..capture.len()).step_by(capture.len() / 40 + 1) {
            survives(&capture[..len]);
        }
        survives(&capture);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_behind_a_header_survive(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        survives(&[&Capture::default().pcap()[..], &bytes].concat());
    }

    #[test]
    fn damaged_captures_survive(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30),
    ) {
        let captures = captures();
        let mut capture = which.get(&captures).clone();
        for (place, byte) in damage {
            let at = place.index(capture.len());
            capture[at] = byte;
        }
        survives(&capture);
    }

    #[test]
    fn a_handshake_of_random_bytes_survives(
        client in prop::collection::vec(any::<u8>(), 0..200),
        server in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        use crate::capture::{From, Kind::Data, record};
        let ends = ("192.0.2.1:40000", A);
        let mut capture = Capture::default();
        capture.visit(0, ("192.0.2.2:40000", A), Hello::offering(&[7; 32]), Answer::Resumes);
        capture.open(0, ends);
        capture.segment(10, ends, From::Client, Data, 0, &record(22, &[&[1, 0, 0, 120][..], &client].concat()));
        capture.segment(20, ends, From::Server, Data, 0, &record(22, &[&[2, 0, 0, 70][..], &server].concat()));
        survives(&capture.pcap());
    }
}
