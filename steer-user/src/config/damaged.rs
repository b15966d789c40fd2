//! Files that nobody should write: no panic, and an error that says where.

use std::fs;

use proptest::prelude::*;

use super::*;

const EXAMPLE: &str = include_str!("../../../deploy/steer.toml");

/// Refused with a line of the file, or taken; the error is one line that no terminal takes for
/// orders.
fn judged(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Err(error) = Config::parse_bytes(Path::new("steer.toml"), bytes) else { return Ok(()) };
    let n_lines = bytes.split(|byte| *byte == b'\n').count();
    prop_assert!((1..=n_lines).contains(&error.line), "{error}");
    let text = error.to_string();
    let place = format!("steer.toml:{}: ", error.line);
    prop_assert!(text.starts_with(&place));
    prop_assert!(
        !error.message.is_empty()
            && text.chars().count() < 1000
            && !text.contains(char::is_control),
        "{text}"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        judged(&bytes)?;
    }

    #[test]
    fn random_toml(lines in prop::collection::vec(
        prop::sample::select(vec![
            "[[vip]]", "[[vip.backend]]", "[vip.health]", "[[interface]]", "[sizes]", "[vip]", "[[pool]]", "[[pool.backend]]",
            "[pool.health]", "shape = \"inline\"", "exempt = [\"10.0.0.0/8\"]", "health = \"seen\"", "[", "]", "=", "'''",
            "name = \"eth0\"", "name = \"\u{1b}[31m\"", "address = \"10.0.0.1:443\"", "address = \"[::1]:1\"",
            "address = 7", "weight = -1", "weight = 65536", "sessions = 4294967296", "flows = 0",
            "interval = \"-1s\"", "fall = 99999999999999999999", "session_timeout = \"584554531y\"",
            "session_timeout = 9223372036854775807", "session_limit = inf", "owner_tries = 0x100",
            "key_names = [[[[]]]]", "key_names = [\"\u{0}\", \"é\"]", "pin_dir = \"\"", "socket = \"x\"",
            "metrics = \"localhost:80\"", "a.b.c.d.e = 1", "# \u{2028}", "\r", "name = {name = 1}",
        ]),
        0..12,
    )) {
        judged(lines.join("\n").as_bytes())?;
    }

    #[test]
    fn a_damaged_example(
        at in 0..EXAMPLE.len(),
        len in 0usize..40,
        bytes in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let mut text = EXAMPLE.as_bytes().to_vec();
        text.splice(at..(at + len).min(text.len()), bytes);
        judged(&text)?;
    }
}

#[track_caller]
fn refused(bytes: &[u8], place: &str, because: &str) {
    judged(bytes).expect("a good error");
    let error = Config::parse_bytes(Path::new("steer.toml"), bytes)
        .expect_err("nothing for a gateway")
        .to_string();
    assert!(
        error.starts_with(&format!("steer.toml:{place}: ")) && error.contains(because),
        "{error}"
    );
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    for open in ["[", "{a=", "a."] {
        refused(format!("\n\nx = {}", open.repeat(200_000)).as_bytes(), "3", "");
    }
    refused(format!("{}=1", "a.".repeat(200_000)).as_bytes(), "1", "");
    refused("[".repeat(200_000).as_bytes(), "1", "");
}

#[test]
fn what_is_no_utf8_is_refused_at_its_line() {
    refused(b"# one\n[[interface]]\nname = \"\xff\"\n", "3: interface.name", "not UTF-8");
}

#[test]
fn what_is_too_long_is_refused_unread() {
    refused(&vec![b'\n'; FILE_MAX + 1], "1", "longer than 1048576 bytes");
    refused(
        format!("[[interface]]\nname = \"{}\"", "x".repeat(1_000_000)).as_bytes(),
        "2: interface.name",
        "...",
    );
}

#[test]
fn a_file_without_end_is_refused_and_a_directory_is_named() {
    let error = Config::load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(error.contains("/dev/zero:1: longer than"), "{error}");
    let directory = tempfile::tempdir().unwrap();
    let error = format!("{:#}", Config::load(directory.path()).unwrap_err());
    assert!(error.contains(&format!("read {}", directory.path().display())), "{error}");
    fs::write(directory.path().join("empty"), "").unwrap();
    let error = Config::load(&directory.path().join("empty")).unwrap_err().to_string();
    assert!(error.contains("empty:1: no [[interface]]"), "{error}");
}

#[test]
fn sizes_that_no_kernel_takes_are_refused() {
    let sizes = "[[interface]]\nname = \"eth0\"\n[sizes]\nsessions = 134217729\n";
    refused(
        sizes.as_bytes(),
        "4: sizes.sessions",
        "`134217729`, expected a whole number from 1 to 134217728",
    );
}
