//! Memory stays within bounds, whatever passes.

use std::{
    fs,
    io::{BufWriter, Write},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    assert_numbers,
    capture::{A, Answer, B, BEGIN, Capture, From, Hello, Kind, MS, SECOND},
};

/// The most memory that the process may have had, KiB.
const MOST: u64 = 256 * 1024;
/// Each second one would hold 60 KB if nothing bounded it.
const CONNECTIONS: u32 = 20_000;
/// The port that clients dial from.
const PORT: u16 = 40_000;

/// Frames of one connection, of which each copy is made another client's, with another session.
struct Template(Vec<(u64, Vec<u8>)>);

impl Template {
    const ID: [u8; 32] = [0xe7; 32];

    /// A whole handshake, or one whose end never comes and in which a client's piece is far behind
    /// what was captured of it before.
    fn new(member: &str, is_whole: bool) -> Self {
        /// Frames up to the server's first piece, and up to its last one.
        const BEGIN_OF: usize = 4;
        const WHOLE: usize = 6;
        let mut capture = Capture::default();
        let client = format!("10.0.0.1:{PORT}");
        let ends = (client.as_str(), member);
        capture.visit(0, ends, Hello::offering(&Self::ID), Answer::Issues(&Self::ID));
        capture.frames.truncate(if is_whole { WHOLE } else { BEGIN_OF });
        if !is_whole {
            capture.segment(4 * MS, ends, From::Client, Kind::Data, 60_000, &[0; 10]);
        }
        let frames = capture.frames.into_iter();
        Self(frames.map(|(time, frame, _)| (time - BEGIN, frame)).collect())
    }

    /// Writes the `n`-th connection, so much later.
    fn write(&self, n: u32, later: u64, to: &mut impl Write) -> std::io::Result<()> {
        /// Where addresses stand in a frame, and the port of its sender.
        const SOURCE: usize = 26;
        const DESTINATION: usize = 30;
        const SENDER: usize = 34;
        let [_, high, middle, low] = n.to_be_bytes();
        for (time, frame) in &self.0 {
            let mut frame = frame.clone();
            let is_client = frame[SENDER..SENDER + 2] == PORT.to_be_bytes();
            let at = if is_client { SOURCE } else { DESTINATION };
            frame[at..at + 4].copy_from_slice(&[11, high, middle, low]);
            // The first bytes of hello's random, or of an ID.
            for of in [&[0, 0, 0, 0, 0, 0, 0, 2, 0x5a, 0x5a][..], &Self::ID] {
                if let Some(at) = frame.windows(of.len()).position(|bytes| bytes == of) {
                    frame[at..at + 4].copy_from_slice(&n.to_be_bytes());
                }
            }
            let time = BEGIN + time + later;
            let stamp = [(time / SECOND) as u32, (time % SECOND / 1000) as u32];
            let len = frame.len() as u32;
            to.write_all(&[stamp[0], stamp[1], len, len].map(u32::to_le_bytes).concat())?;
            to.write_all(&frame)?;
        }
        Ok(())
    }
}

/// The most memory that a process had so far, KiB.
fn high_water(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a high water");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// What is said of a capture as it is written, and the most memory that it took.
fn assess(write: impl FnOnce(&mut BufWriter<&mut std::process::ChildStdin>)) -> (Value, u64) {
    let mut steer = Command::new(env!("CARGO_BIN_EXE_steer"));
    steer.args(["assess", "--json", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut steer = steer.spawn().expect("it starts");
    let mut input = steer.stdin.take().expect("its input");
    let mut file = BufWriter::new(&mut input);
    file.write_all(&Capture::default().pcap()).expect("it reads");
    write(&mut file);
    file.flush().expect("it reads");
    drop(file);
    // All but what is left in the pipe has been read.
    let most = high_water(&steer);
    drop(input);
    let output = steer.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    (serde_json::from_slice(&output.stdout).expect("JSON"), most)
}

#[test]
fn streams_that_are_never_whole_take_no_more_than_256_mib() {
    let templates = [Template::new(A, true), Template::new(B, false)];
    let (report, most) = assess(|file| {
        for n in 0..CONNECTIONS {
            let template = &templates[n as usize % 2];
            template.write(n, u64::from(n) * MS / 10, file).expect("it reads");
        }
    });
    assert!(most < MOST, "{most} KiB");
    assert_numbers(
        &report,
        &[
            ("/total/handshakes", u64::from(CONNECTIONS)),
            ("/total/offered", u64::from(CONNECTIONS)),
            ("/total/refused", u64::from(CONNECTIONS / 2)),
            ("/connections/copies", 0),
        ],
    );
    let notes = report["notes"].as_array().expect("notes");
    let bounded = |note: &Value| note.as_str().is_some_and(|note| note.contains("to bound memory"));
    assert!(notes.iter().any(bounded), "{notes:?}");
}
