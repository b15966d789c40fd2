//! The verb itself: what goes where, and exit codes.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use crate::{ETHERNET, Flow, Kind::Data, client_hello, pcap, record, sized};

/// A file that is removed when it goes out of scope.
struct File(PathBuf);

impl File {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path =
            std::env::temp_dir().join(format!("steer-inspect-{}-{name}", std::process::id()));
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
    pcap(
        ETHERNET,
        &[Flow::v4().client(Data, 0, &record(22, &client_hello(&[7; 32], &[(0, name)])))],
    )
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
fn what_is_not_read_is_told_by_kind() {
    let hello = Flow::v4().client(Data, 0, &record(22, &client_hello(&[7; 32], &[])));
    let mut arp = vec![0; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut esp = hello.clone();
    esp[23] = 50;
    let file = File::new("kinds", &pcap(ETHERNET, &[hello, arp, esp.clone(), esp, vec![0; 9]]));
    for flags in [&[][..], &["--json"]] {
        let output = file.inspect(flags);
        assert!(output.status.success());
        assert_eq!(
            text(&output.stderr),
            "steer: 3 frames were not read: 2 IP protocol 50 (ESP), 1 cut within a header\n\
             steer: 1 frames are no TCP: 1 EtherType 0x0806 (ARP)\n"
        );
    }
    let summed_up = file.inspect(&["--json", "--summary"]);
    assert_eq!(
        text(&summed_up.stdout).lines().nth(1),
        Some(
            "{\"summary\":{\"ending\":\"whole\",\"frames\":5,\"segments\":1,\"rows\":1,\"cut_short\":0,\"not_read\":[\
             {\"kind\":\"ip-protocol\",\"number\":50,\"name\":\"ESP\",\"count\":2},\
             {\"kind\":\"cut\",\"number\":null,\"name\":null,\"count\":1}],\"no_tcp\":[\
             {\"kind\":\"ether-type\",\"number\":2054,\"name\":\"ARP\",\"count\":1}],\"blocks_not_read\":[]}}"
        )
    );
    let alone = file.inspect(&["--summary"]);
    assert_eq!((alone.status.code(), alone.stdout.len()), (Some(1), 0));
    assert!(text(&alone.stderr).contains("--json"), "{alone:?}");
}

#[test]
fn a_capture_of_anything_else_is_not_silent() {
    let file = File::new("other", &pcap(147, &[vec![0; 60], vec![0; 60]]));
    let output = file.inspect(&[]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    assert_eq!(
        text(&output.stderr),
        "steer: 2 frames were not read: 2 link type 147 (for private use)\n"
    );
}

#[test]
fn standard_input_may_be_a_file() {
    let flow = |port: u16| Flow::new(&format!("192.0.2.1:{port}"), "198.51.100.10:443", 1, 1);
    let hello = record(22, &client_hello(&[7; 32], &[]));
    // The first one is complete at the end only: as of a file, rows stand in order.
    let file = File::new(
        "stdin",
        &pcap(ETHERNET, &[flow(1).client(Data, 0, &[]), flow(2).client(Data, 0, &hello)]),
    );
    let open = fs::File::open(&file.0).expect("the file");
    let mut steer = Command::new(env!("CARGO_BIN_EXE_steer"));
    let output = steer.args(["inspect", "-", "--json"]).stdin(open).output().expect("it runs");
    assert_eq!(output.stdout, file.inspect(&["--json"]).stdout);
    let none = Command::new(env!("CARGO_BIN_EXE_steer"))
        .args(["inspect", "-"])
        .stdin(Stdio::null())
        .output();
    let none = none.expect("it runs");
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).starts_with("steer: standard input: no capture"), "{none:?}");
}

#[test]
fn a_table_has_its_columns_where_cells_are_wide() {
    let flows = [
        Flow::v4(),
        Flow::new("[2001:db8:1111:2222:3333:4444:5555:6666]:40000", "[2001:db8::10]:443", 1, 1),
        Flow::new("192.0.2.1:9", "198.51.100.10:443", 1, 1),
    ];
    let hello = record(22, &client_hello(&[7; 32], &[]));
    let frames: Vec<_> = flows.iter().map(|flow| flow.client(Data, 0, &hello)).collect();
    let output = File::new("columns", &pcap(ETHERNET, &frames)).inspect(&[]);
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    let of = |line: &str, word: &str| line.find(word).unwrap_or_else(|| panic!("{word} in {line}"));
    assert_eq!(
        of(lines[0], "OUTCOME"),
        of(lines[1], "unknown"),
        "cells stand under their column's name"
    );
    assert_eq!(
        of(lines[2], "unknown"),
        of(lines[3], "unknown"),
        "and wider ones move what follows"
    );
}

#[test]
fn a_truncated_capture_is_warned_of_and_done() {
    let bytes = capture(b"example.test");
    let output = File::new("truncated", &[&bytes[..], &[0; 9]].concat()).inspect(&["--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        (text(&output.stdout).lines().count(), text(&output.stderr).lines().count()),
        (1, 1)
    );
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
