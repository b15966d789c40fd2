//! The command: what it prints, its page, its exit codes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::capture::{A, Answer, B, Capture, Hello, SECOND};

const CANNOT_SAY: i32 = 3;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).expect("room");
        self.path(name)
    }
}

fn steer(file: &Path, flags: &[&str]) -> Output {
    let mut steer = Command::new(env!("CARGO_BIN_EXE_steer"));
    steer.arg("assess").arg(file).args(flags).output().expect("it runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

fn two_visits() -> Vec<u8> {
    let mut capture = Capture::default();
    capture.visit(0, ("192.0.2.1:40000", A), Hello::offering(&[]), Answer::Issues(&[7; 32]));
    let offered = Hello::offering(&[7; 32]);
    capture.visit(SECOND, ("192.0.2.2:40001", B), offered, Answer::Issues(&[8; 32]));
    capture.pcap()
}

#[test]
fn the_first_lines_say_it() {
    let files = Files::new();
    let output = steer(&files.write("two.pcap", &two_visits()), &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    assert!(lines[0].ends_with("two.pcap: 14 packets in 1s, 14 TCP segments"), "{}", lines[0]);
    assert_eq!(
        lines[1],
        "inside capture, between balancer and members: 2 members, inferred from who answers"
    );
    assert_eq!(
        lines[2],
        "of 1 resumptions offered 1 were refused; 1 of those had their session at another server, \
         not older than 10 min: steer would have kept them"
    );
    assert!(
        lines.iter().any(|line| line.starts_with(A))
            && lines.iter().any(|line| line.starts_with("rehome "))
    );
}

#[test]
fn a_capture_that_cannot_say_ends_with_3_and_why() {
    let files = Files::new();
    let mut plain = Capture::default();
    plain.open(0, ("192.0.2.1:40000", A));
    for (bytes, why) in [
        (Capture::default().pcap(), "cannot say: there are no packets in it"),
        (plain.pcap(), "cannot say: no TLS handshake is in it"),
    ] {
        let path = files.write("none.pcap", &bytes);
        for flags in [&[][..], &["--json"]] {
            let output = steer(&path, flags);
            assert_eq!(output.status.code(), Some(CANNOT_SAY), "{output:?}");
            assert!(!output.stdout.is_empty());
        }
        assert!(text(&steer(&path, &[]).stdout).contains(why));
    }
}

#[test]
fn what_is_no_capture_is_named_and_one_that_is_truncated_is_read_as_far_as_it_goes() {
    let files = Files::new();
    let good = files.write("good.pcap", &two_visits());
    let none = files.write("none.pcap", b"what is this");
    let output = steer(&good, &[none.to_str().expect("a path")]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(text(&output.stderr).contains("none.pcap: no capture"), "{output:?}");
    let mut cut = two_visits();
    cut.truncate(cut.len() - 9);
    let output = steer(&files.write("cut.pcap", &cut), &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("cut.pcap ends inside a packet: it was truncated"));
}

#[test]
fn the_page_is_whole_by_itself_and_takes_no_captures_place() {
    let files = Files::new();
    let capture = files.write("<b>&two.pcap", &two_visits());
    let page = files.path("page.html");
    let output = steer(&capture, &["--html", page.to_str().expect("a path")]);
    assert!(output.status.success(), "{output:?}");
    let html = fs::read_to_string(&page).expect("the page");
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"));
    assert!(html.matches("<svg").count() >= 4 && html.contains("prefers-color-scheme: dark"));
    for elsewhere in ["http:", "https:", "src=", "href=", "@import", "url(", "<script", "<b>&two"] {
        assert!(!html.contains(elsewhere), "{elsewhere}");
    }
    // What is longer is not left behind it.
    fs::write(&page, "x".repeat(html.len() * 2)).expect("room");
    assert!(steer(&capture, &["--html", page.to_str().expect("a path")]).status.success());
    assert_eq!(fs::read_to_string(&page).expect("the page"), html);
    let output = steer(&capture, &["--html", capture.to_str().expect("a path")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("would be overwritten"), "{output:?}");
    assert_eq!(fs::read(&capture).expect("the capture"), two_visits());
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    for name in ["steer-none0", "", "a/b", "a-name-that-is-longer-than-any"] {
        let mut steer = Command::new(env!("CARGO_BIN_EXE_steer"));
        let output = steer.args(["assess", "--interface", name]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains("find interface") || said.contains("CAP_NET_RAW"), "{said}");
    }
}
