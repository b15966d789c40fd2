//! The command line given nonsense, and output that nobody takes: a sentence, the documented exit
//! code, no panic.

use std::{
    fs::{self, OpenOptions},
    io::pipe,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/steer.toml");

/// Neither a gateway nor an agent of this machine is meant.
fn steer(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steer"));
    command.args(words.split_whitespace()).args([
        "--pin-dir",
        "/nonexistent/pins",
        "--socket",
        "/nonexistent/socket",
    ]);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Nothing but an explanation, and this exit code.
#[track_caller]
fn refused(output: &Output, code: i32, what: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{what}: {said}");
    assert!(output.stdout.is_empty() && !said.contains("panicked"), "{what}: {said}");
    let known = if code == 1 {
        said.starts_with("steer: ") && said.lines().count() == 1
    } else {
        said.contains("help")
    };
    assert!(known, "{what}: {said}");
}

#[test]
fn what_is_no_command_line_is_explained_with_exit_code_2() {
    for words in [
        "",
        "reboot",
        "--json",
        "agent here",
        "bypass",
        "bypass maybe",
        "backends",
        "backends add 10.0.0.1:443",
        "backends add --vip 198.51.100.10:443 10.0.0.1",
        "backends add --vip 198.51.100.10:443 10.0.0.1:443 --weight -1",
        "backends add --vip 198.51.100.10:443 10.0.0.1:443 --weight 65536",
        "backends remove example.test:443",
        "backends drain 10.0.0.1:443 --for",
        "backends drain 10.0.0.1:443 --for soon",
        "backends drain 10.0.0.1:443 --for -1s",
        "backends drain 10.0.0.1:443 --for 500ms",
        "backends drain 10.0.0.1:443 --for 99999999999999999999y",
        "backends undrain",
        "sessions list --limit -1",
        "sessions list --limit 99999999999999999999999",
        "sessions list --kind cookie",
        "sessions show",
        "sessions show xyz",
        "sessions remove",
        "sessions remove --all 00",
        "sessions remove --all --all",
        "keys list --vip 198.51.100.10",
        "keys generate --out x",
        "keys generate --backends 10.0.0.1:0 --out x",
        "keys generate --backends , --out x",
        "inspect",
        "assess",
        "assess --for 1h",
        "assess capture --for 1h",
        "assess capture --interface eth0",
        "assess capture --member 10.0.0.1",
        "assess capture --session-timeout soon",
        "assess capture --ticket-key-name 5@5",
        "config check",
        "stats --none",
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_steer"))
            .args(words.split_whitespace())
            .output()
            .expect("it runs");
        refused(&output, 2, words);
    }
}

#[test]
fn what_cannot_be_done_is_one_sentence_with_exit_code_1() {
    for words in [
        "stats",
        "backends list",
        "backends drain 10.0.0.1:443 --for 4294967297s",
        "sessions show 00",
        "sessions list --limit 18446744073709551615",
        "keys list",
        "bypass on",
        "agent --config /nonexistent/steer.toml",
        "agent --config /",
        "agent --config /dev/zero",
        "config check /nonexistent/steer.toml",
        "config check /",
        "inspect /nonexistent/capture",
        "inspect /",
        "inspect /dev/null",
        "inspect /dev/zero",
        "assess /nonexistent/capture",
        "assess /",
        "assess /dev/null",
        "assess /dev/zero",
        "assess /dev/null --html /nonexistent/page",
        "assess --interface steer-none0",
        "keys generate --backends 10.0.0.1:443 --out /proc/keys",
        "keys generate --backends 10.0.0.1:443,10.0.0.1:443 --out /nonexistent/keys",
    ] {
        let output = steer(words).output().expect("it runs");
        refused(&output, 1, words);
    }
}

/// A file that is wrong in several places.
#[test]
fn what_is_wrong_in_a_file_is_a_sentence_each_with_exit_code_1() {
    for words in ["agent --config /dev/null", "config check /dev/null"] {
        let output = steer(words).output().expect("it runs");
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 2), "{words}: {said}");
        assert!(said.lines().all(|line| line.starts_with("steer: /dev/null:1: no [[")), "{said}");
    }
}

/// Exit codes of `status` are for monitoring: where there is no gateway it is down.
#[test]
fn status_without_a_gateway_is_one_sentence_with_exit_code_2() {
    let output = steer("status").output().expect("it runs");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("steer: nothing is pinned") && said.lines().count() == 1, "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn words_that_are_no_text_are_refused() {
    let odd = std::ffi::OsStr::from_bytes(b"\xff\x1b[31m\xfe");
    for verb in [&["sessions", "show"][..], &["bypass"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_steer"))
            .args(verb)
            .arg(odd)
            .output()
            .expect("it runs");
        refused(&output, 2, "a word that is no UTF-8");
    }
    for verb in [&["config", "check"][..], &["inspect"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_steer"))
            .args(verb)
            .arg(odd)
            .output()
            .expect("it runs");
        refused(&output, 1, "a file name that is no UTF-8");
    }
}

#[test]
fn where_nobody_reads_there_is_no_panic() {
    for words in ["--help", "--version", "reboot", "status", "config check", "keys generate --help"]
    {
        let words =
            if words == "config check" { format!("{words} {EXAMPLE}") } else { words.to_owned() };
        let codes = [false, true].map(|also_errors| {
            let (reader, writer) = pipe().expect("a pipe");
            drop(reader);
            let mut command = Command::new(env!("CARGO_BIN_EXE_steer"));
            command
                .args(words.split_whitespace())
                .stdout(writer.try_clone().expect("an end of it"));
            if words.starts_with("status") {
                command.args(["--pin-dir", "/nonexistent/pins"]);
            }
            let command =
                if also_errors { command.stderr(writer) } else { command.stderr(Stdio::null()) };
            command.status().expect("it runs").code()
        });
        assert!(matches!(codes[0], Some(0..=2)) && codes[0] == codes[1], "{words}: {codes:?}");
    }
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = steer(&format!("config check {EXAMPLE}")).stdout(full).output().expect("it runs");
    // Warnings about this machine may stand in front of it.
    let said = text(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    assert!(output.status.code() == Some(1) && last.contains("No space left on device"), "{said}");
}

#[test]
fn what_stands_where_a_key_should_is_refused_and_left_as_it_is() {
    type Make = fn(&Path);
    let made: [(&str, Make); 5] = [
        ("a directory", |key| fs::create_dir(key).expect("a directory")),
        ("a pipe", |key| {
            assert!(Command::new("mkfifo").arg(key).status().expect("mkfifo").success())
        }),
        ("a file without end", |key| symlink("/dev/zero", key).expect("a link")),
        ("a link to itself", |key| symlink("current.key", key).expect("a link")),
        ("81 bytes", |key| fs::write(key, [7; 81]).expect("a file")),
    ];
    for (what, make) in made {
        let out = tempfile::tempdir().expect("a directory");
        let generate = format!(
            "keys generate --backends 10.0.0.1:443,10.0.0.2:443 --out {}",
            out.path().display()
        );
        assert!(steer(&generate).output().expect("it runs").status.success());
        let keys = |backend: &str| out.path().join(backend).join("current.key");
        let other = fs::read(keys("10.0.0.1_443")).expect("a key");
        fs::remove_file(keys("10.0.0.2_443")).expect("its key");
        make(&keys("10.0.0.2_443"));
        let start = Instant::now();
        refused(&steer(&generate).output().expect("it runs"), 1, what);
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: it waits");
        assert_eq!(
            fs::read(keys("10.0.0.1_443")).expect("a key"),
            other,
            "{what}: nothing is rotated"
        );
        assert!(fs::symlink_metadata(keys("10.0.0.2_443")).is_ok(), "{what}: it is left");
    }
}
