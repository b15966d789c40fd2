//! Captures that are being made: through a pipe, row by row.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use crate::{
    ETHERNET, Flow,
    Kind::{Data, Fin, Reset, Syn},
    client_hello, pcap, record, server_hello,
};

/// What a row may take to come through, far above what it takes.
const SOON: Duration = Duration::from_secs(20);

/// A capture that is written into `steer inspect -`, and the lines that come out.
struct Live {
    child: Child,
    lines: Receiver<String>,
}

impl Live {
    fn start(flags: &[&str]) -> Self {
        let mut steer = Command::new(env!("CARGO_BIN_EXE_steer"));
        steer
            .args(["inspect", "-"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = steer.spawn().expect("it runs");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, lines) = channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Self { child, lines }
    }

    fn write(&mut self, bytes: &[u8]) {
        let pipe = self.child.stdin.as_mut().expect("a pipe");
        pipe.write_all(bytes).and_then(|()| pipe.flush()).expect("it reads");
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(SOON).expect("a line, soon")
    }

    /// The lines that are left when the capture ends.
    fn end(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("its end").success());
        self.lines.iter().collect()
    }
}

fn flow(port: u16) -> Flow {
    Flow::new(&format!("192.0.2.1:{port}"), "198.51.100.10:443", 1000, 5000)
}

fn resumption(flow: &Flow) -> Vec<Vec<u8>> {
    let hello = record(22, &client_hello(&[7; 32], &[]));
    let answer = [record(22, &server_hello([1; 32], &[7; 32], &[])), record(20, &[1])].concat();
    [flow.opened(), vec![flow.client(Data, 0, &hello), flow.server(Data, 0, &answer)]].concat()
}

/// A file's header, and packets of it.
fn header() -> Vec<u8> {
    pcap(ETHERNET, &[])
}

fn packets(frames: &[Vec<u8>]) -> Vec<u8> {
    pcap(ETHERNET, frames)[24..].to_vec()
}

#[test]
fn a_row_comes_once_its_connection_says_all() {
    for flags in [&["--json"][..], &[]] {
        let mut live = Live::start(flags);
        live.write(&header());
        for port in [1, 2, 3] {
            live.write(&packets(&resumption(&flow(port))));
            if port == 1 && flags.is_empty() {
                assert!(live.line().starts_with("CLIENT"), "the header of the table");
            }
            assert!(live.line().contains(&format!("192.0.2.1:{port}")));
        }
        assert_eq!(live.end(), [""; 0]);
    }
}

#[test]
fn no_row_waits_for_an_earlier_connection() {
    let mut live = Live::start(&["--json"]);
    live.write(&[header(), packets(&[flow(1).client(Syn, 0, &[])])].concat());
    live.write(&packets(&resumption(&flow(2))));
    assert!(live.line().contains("192.0.2.1:2"));
    live.write(&packets(&resumption(&flow(3))));
    assert!(live.line().contains("192.0.2.1:3"));
    let rest = live.end();
    assert_eq!(rest.len(), 1);
    assert!(rest[0].contains("192.0.2.1:1"), "what is open is shown at the end");
}

#[test]
fn connections_that_end_without_a_word_are_shown_when_they_end() {
    let mut live = Live::start(&["--json"]);
    live.write(&header());
    // A check that connects and hangs up, one that resets, a port that is closed.
    let hangs_up = [flow(1).opened(), vec![flow(1).client(Fin, 0, &[])]].concat();
    live.write(&packets(&hangs_up));
    assert!(live.line().contains("192.0.2.1:1"));
    live.write(&packets(&[flow(2).opened(), vec![flow(2).client(Reset, 0, &[])]].concat()));
    assert!(live.line().contains("192.0.2.1:2"));
    let mut refusal = flow(3).server(Reset, 0, &[]);
    refusal[38..42].fill(0);
    refusal[42..46].copy_from_slice(&1001u32.to_be_bytes());
    refusal[47] |= 0x10;
    live.write(&packets(&[flow(3).client(Syn, 0, &[]), refusal]));
    assert!(live.line().contains("192.0.2.1:3"));
    // A client that gets no answer to its hello and gives up; both ends say so.
    let hello = record(22, &client_hello(&[7; 32], &[]));
    let len = hello.len() as u32;
    let gives_up = [
        flow(4).client(Data, 0, &hello),
        flow(4).client(Fin, len, &[]),
        flow(4).server(Fin, 0, &[]),
    ];
    live.write(&packets(&[flow(4).opened(), gives_up.to_vec()].concat()));
    assert!(live.line().contains("192.0.2.1:4"));
    assert_eq!(live.end(), [""; 0]);
}

#[test]
fn a_capture_may_come_byte_by_byte() {
    let mut live = Live::start(&["--json"]);
    for byte in [header(), packets(&resumption(&flow(1)))].concat() {
        live.write(&[byte]);
    }
    assert!(live.line().contains("192.0.2.1:1"));
    assert_eq!(live.end(), [""; 0]);
}

#[test]
fn the_summary_comes_last() {
    let mut live = Live::start(&["--json", "--summary"]);
    live.write(&[header(), packets(&resumption(&flow(1))), packets(&[vec![0; 60]])].concat());
    assert!(live.line().contains("192.0.2.1:1"));
    let last = live.end();
    assert_eq!(last.len(), 1);
    assert!(
        last[0].starts_with(
            "{\"summary\":{\"ending\":\"whole\",\"frames\":6,\"segments\":5,\"rows\":1,"
        ),
        "{last:?}"
    );
}
