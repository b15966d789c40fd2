//! A configuration file: taken, or refused at one of its lines, in one line that no terminal takes
//! for orders.

use std::path::Path;

use crate::config::Config;

/// The bytes are the file.
pub fn run(file: &[u8]) {
    let Err(error) = Config::parse_bytes(Path::new("steer.toml"), file) else { return };
    let n_lines = file.split(|byte| *byte == b'\n').count();
    assert!((1..=n_lines).contains(&error.line), "{error}");
    let text = error.to_string();
    assert!(!error.message.is_empty() && text.chars().count() < 1000, "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
}
