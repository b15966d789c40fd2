//! A line at the control socket: a request that can be written down again, or refused with a
//! reason.

use crate::request::{Reply, Request};

/// The bytes are the line.
pub fn run(line: &[u8]) {
    match Request::parse(line) {
        Ok(request) => {
            let text = serde_json::to_string(&request).expect("JSON");
            assert_eq!(Request::parse(text.as_bytes()), Ok(request));
        }
        Err(error) => {
            assert!(error.starts_with("no request of ours: "), "{error}");
            let reply = serde_json::to_string(&Reply::Refused { error }).expect("JSON");
            assert!(!reply.contains('\n'));
        }
    }
}
