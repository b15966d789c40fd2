//! A capture: rows in which nothing is longer than the parser says, and no more rows than there is
//! room for packets.

use std::{convert::Infallible, io::Cursor};

use crate::inspect::{Stopped, inspect};

/// A packet's header in a file, and a frame with TCP behind it, bytes.
const PACKET_MIN: usize = 12 + 20;

/// How a file that is packed by gzip begins: what it holds may be longer than it.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The bytes are the file.
pub fn run(file: &[u8]) {
    let mut n_rows = 0;
    let ended = inspect(Cursor::new(file.to_vec()), |row| {
        n_rows += 1;
        let hello = row.client_hello.as_ref();
        for (hex, most) in [
            (hello.and_then(|hello| hello.session_id.as_deref()), 32),
            (hello.and_then(|hello| hello.ticket_prefix.as_deref()), 32),
            (hello.and_then(|hello| hello.psk_prefix.as_deref()), 16),
            (row.new_session_ticket_prefix.as_deref(), 32),
        ] {
            assert!(hex.is_none_or(|hex| !hex.is_empty() && hex.len() <= 2 * most), "{row:?}");
        }
        serde_json::to_string(&row).expect("JSON");
        Ok::<(), Infallible>(())
    });
    assert!(n_rows <= file.len() / PACKET_MIN || file.starts_with(&GZIP), "{n_rows} rows");
    if let Ok(summary) = &ended {
        let counted = summary.segments + summary.not_read.total() + summary.no_tcp.total();
        assert_eq!((summary.frames, summary.rows), (counted, n_rows as u64));
    }
    assert!(n_rows == 0 || !matches!(ended, Err(Stopped::Refused(_))), "no capture, but rows");
}
