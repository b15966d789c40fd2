//! A batch of rows, as a store hands it on: read, or refused. What was read is read again as it is
//! when it is written anew.

use crate::record::{Writer, read};

/// The bytes are the batch.
pub fn run(text: &[u8]) {
    let Ok(first) = read(text) else { return };
    let mut writer = Writer::default();
    for row in &first.rows {
        writer.push(row).expect("no more names than there were");
    }
    let text = writer.finish().expect("a batch");
    // Names that stood there for nothing are gone, so that it is no longer than before.
    let again = read(&text).expect("what was written");
    assert_eq!((again.rows, again.unknown), (first.rows, 0));
}
