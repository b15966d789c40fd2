//! A fuzz target over its committed corpus, without a fuzzer: for the tests of the crates that are
//! fuzzed.

use std::{fs, path::Path};

pub(crate) fn replay(target: &str, run: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut n = 0;
    for entry in fs::read_dir(&directory).expect("the corpus") {
        run(&fs::read(entry.expect("an entry").path()).expect("an input"));
        n += 1;
    }
    assert!(n > 0, "{} is empty", directory.display());
}
