//! The verb itself: what goes where, and exit codes.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use crate::{ETHERNET, Flow, Kind::Data, client_hello, pcap, record, sized};

/// A file that is removed when it goes out of scope.
struct File(PathBuf);

impl File {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("steer-inspect-{}-{name}", std::process::id()));
        fs::write(&path, bytes).expect("a file");
        Self(path)
    }

    fn inspect(&self, flags: &[&str]) -> Output {
        let mut steer = Command::new(env!("CARGO_BIN_EXE_steer"));
        steer.arg("inspect").arg(&self.0).args(flags).output().expect("it runs")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn capture(name: &[u8]) -> Vec<u8> {
    let name = sized(&[&[0][..], &sized(name)].concat());
    pcap(ETHERNET, &[Flow::v4().client(Data, 0, &record(22, &client_hello(&[7; 32], &[(0, name)])))])
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn a_capture_is_shown_for_people_and_for_programs() {
    let file = File::new("whole", &capture(b"example.test"));
    let table = file.inspect(&[]);
    assert!(table.status.success() && table.stderr.is_empty());
    assert_eq!(text(&table.stdout).lines().count(), 2);
    assert!(text(&table.stdout).contains("07070707.."), "identifiers are not shown whole");
    let json = file.inspect(&["--json"]);
    assert_eq!(
        text(&json.stdout),
        format!(
            "{{\"client\":\"192.0.2.1:40000\",\"server\":\"198.51.100.10:443\",\"client_hello\":{{\"version\":\"1.2\",\
             \"bytes\":100,\"segments\":1,\"session_id\":\"{}\",\"ticket_prefix\":null,\"psk_prefix\":null,\
             \"sni\":\"example.test\",\"ech\":false}},\"server_hello\":null,\"new_session_ticket_prefix\":null,\
             \"outcome\":\"unknown\",\"key\":\"session-id\",\"proxy_protocol\":null,\"proxied_client\":null,\
             \"encapsulation\":null}}\n",
            "07".repeat(32)
        )
    );
}

#[test]
fn a_truncated_capture_is_warned_of_and_done() {
    let bytes = capture(b"example.test");
    let output = File::new("truncated", &[&bytes[..], &[0; 9]].concat()).inspect(&["--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((text(&output.stdout).lines().count(), text(&output.stderr).lines().count()), (1, 1));
}

#[test]
fn what_is_no_capture_is_one_line_of_error() {
    for bytes in [&b""[..], b"no capture", &[0; 3000]] {
        let output = File::new(&format!("none-{}", bytes.len()), bytes).inspect(&["--json"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!((output.stdout.len(), text(&output.stderr).lines().count()), (0, 1));
    }
}

#[test]
fn a_name_cannot_steer_the_terminal() {
    let output = File::new("escape", &capture(b"\x1b[31m\nevil\xff")).inspect(&[]);
    assert!(!output.stdout.contains(&0x1b) && text(&output.stdout).lines().count() == 2);
}
