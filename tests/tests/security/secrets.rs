//! No whole identifier, ticket or key in anything that the agent or the command line says.

use std::{collections::HashSet, fs, process::Command};

use anyhow::{Context, Result, ensure};
use steer_common::session::Kind;
use steer_tests::{
    agent::{Agent, Hook},
    client::Offer,
    nginx,
    scenario::{Run, Scenario},
    topology::Family,
};
use steer_user::plane::{PinDir, Plane};

use crate::bystander::binary;

/// Bytes of an identifier that may be told, and one more.
const TOO_MANY: usize = 5;
/// A ticket starts with the name of its key, which may be told: every ticket of a server has the
/// same.
const KEY_NAME: usize = 16;
/// Everything that the command line shows of a running gateway.
const VERBS: [&str; 14] = [
    "status",
    "status --json",
    "backends list",
    "backends list --json",
    "sessions list --limit 1000",
    "sessions list --limit 1000 --json",
    "flows list --ended --limit 0",
    "flows list --ended --limit 0 --json",
    "keys list",
    "keys list --json",
    "stats --all",
    "bypass off",
    "sessions remove --owner 192.0.2.1:443",
    "sessions show 00000000",
];

#[test]
fn session_ids_are_told_in_four_bytes_at_most() -> Result<()> {
    told_nothing(Hook::Tc, &[Offer::SessionId])
}

#[test]
fn tickets_are_told_by_the_names_of_their_keys_at_most() -> Result<()> {
    told_nothing(Hook::Xdp, &[Offer::Ticket12, Offer::Ticket13])
}

#[test]
fn keys_that_are_made_are_told_by_their_names() -> Result<()> {
    let out = tempfile::tempdir()?;
    let mut said = Vec::new();
    let mut secrets = Secrets::default();
    for flag in [None, Some("--json")] {
        let mut command = Command::new(binary()?);
        command
            .args(["keys", "generate", "--backends", "10.0.0.1:443,10.0.0.2:443", "--out"])
            .arg(out.path())
            .args(flag);
        let output = command.env("STEER_LOG", "trace").output()?;
        ensure!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
        said.extend([output.stdout, output.stderr].concat());
        for backend in ["10.0.0.1_443", "10.0.0.2_443"] {
            let key = fs::read(out.path().join(backend).join("current.key"))?;
            secrets.add(&key[KEY_NAME..]);
        }
    }
    ensure!(secrets.found_in(&said).is_none(), "a key is told");
    Ok(())
}

#[test]
fn a_secret_is_found_in_any_spelling() {
    let mut secrets = Secrets::default();
    secrets.add(&[0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67]);
    for told in [
        "id cdef012345.",
        "ID ABCDEF0123",
        "[205, 239, 1, 35, 69]",
        "[\n 205,\n 239,\n 1,\n 35,\n 69,\n]",
        "cd:ef:01:23:45",
    ] {
        assert!(secrets.found_in(told.as_bytes()).is_some(), "{told}");
    }
    assert!(secrets.found_in(b"\x00\xab\xcd\xef\x01\x23\x00").is_some());
    for told in ["abcdef01.. (7 bytes)", "[171, 205, 239, 1]", "0123456789", "ab cd"] {
        assert!(secrets.found_in(told.as_bytes()).is_none(), "{told}");
    }
}

/// Re-homes such sessions while everything is logged, and looks through all that was said.
fn told_nothing(hook: Hook, offers: &[Offer]) -> Result<()> {
    let tickets = offers != [Offer::SessionId];
    let protocols = "TLSv1.2 TLSv1.3".to_owned();
    let servers = nginx::Settings { protocols, tickets, ..nginx::Settings::default() };
    let mut scenario = Scenario::new(hook, Family::V4).backends(2).nginx(servers);
    scenario = scenario.vip_setting("ticket_key_name = \"auto\"");
    scenario.steer.environment.push(("STEER_LOG".to_owned(), "trace".to_owned()));
    scenario.steer.top.push("metrics = \"127.0.0.1:9464\"".to_owned());
    let run = scenario.start()?;
    let steer = run.agent()?;
    let mut rehomed = 0;
    for offer in offers {
        let client = run.new_client_offering(*offer)?;
        for _ in 0..4 {
            rehomed += u32::from(run.resume_elsewhere(&client)?.resumed);
        }
    }
    ensure!(rehomed > 0, "nothing was re-homed");
    let (secrets, kinds) = issued(&steer)?;
    let wanted = if tickets { Kind::Ticket } else { Kind::SessionId };
    ensure!(kinds.contains(&(wanted as u8)) && secrets.0.len() > 10, "{kinds:?}");

    let said = everything(&run, &steer)?;
    ensure!(
        said.len() > 10_000 && String::from_utf8_lossy(&said).contains("TRACE"),
        "nothing is logged"
    );
    let found = secrets.found_in(&said).map(|at| {
        String::from_utf8_lossy(&said[at.saturating_sub(200)..(at + 200).min(said.len())])
            .into_owned()
    });
    ensure!(found.is_none(), "told: {found:?}");
    Ok(())
}

/// All session IDs and tickets that the gateway learned, and their kinds.
fn issued(steer: &Agent<'_>) -> Result<(Secrets, HashSet<u8>)> {
    let mut secrets = Secrets::default();
    let mut kinds = HashSet::new();
    for (key, _) in Plane::open(&PinDir::new(steer.pin_dir()))?.sessions.entries()? {
        let id = key.bytes.get(..usize::from(key.len)).context("a key longer than its bytes")?;
        secrets.add(if key.kind == Kind::Ticket as u8 {
            id.get(KEY_NAME..).unwrap_or_default()
        } else {
            id
        });
        kinds.insert(key.kind);
    }
    Ok((secrets, kinds))
}

/// What the agent logged, what the command line prints, and what is served as metrics.
fn everything(run: &Run, steer: &Agent<'_>) -> Result<Vec<u8>> {
    let id = steer.json("sessions list")?["sessions"][0]["id"]
        .as_str()
        .context("no session")?
        .to_owned();
    let mut said = run.lab.gateway().tool("curl -s http://127.0.0.1:9464/metrics")?.into_bytes();
    ensure!(String::from_utf8_lossy(&said).contains("steer_packets_total"), "no metrics");
    let client = run.source(run.source_not_of(0)?);
    let of_one = [
        format!("sessions show {id}"),
        format!("why {id}"),
        format!("why {id} --json"),
        format!("why {client}"),
        format!("why {client} --json"),
    ];
    for words in VERBS.into_iter().chain(of_one.iter().map(String::as_str)) {
        let mut command = Command::new(binary()?);
        command
            .args(words.split(' '))
            .arg("--pin-dir")
            .arg(steer.pin_dir())
            .arg("--socket")
            .arg(steer.socket());
        let output = run.lab.gateway().run(|| Ok(command.env("STEER_LOG", "trace").output()?))?;
        said.extend([output.stdout, output.stderr].concat());
    }
    said.extend(steer.log().into_bytes());
    Ok(said)
}

/// Runs of bytes that nobody may tell.
#[derive(Default)]
struct Secrets(HashSet<[u8; TOO_MANY]>);

impl Secrets {
    fn add(&mut self, bytes: &[u8]) {
        self.0.extend(
            bytes.windows(TOO_MANY).filter_map(|window| <[u8; TOO_MANY]>::try_from(window).ok()),
        );
    }

    /// Where one of them begins or ends: in hexadecimal, in lists of numbers, or as it is.
    fn found_in(&self, text: &[u8]) -> Option<usize> {
        let raw = text.iter().enumerate().map(|(at, byte)| (at, *byte));
        let raw = self.among(raw);
        let (hex, numbers) = (self.in_hexadecimal(text), self.among(numbers(text)));
        raw.or(hex).or(numbers)
    }

    fn in_hexadecimal(&self, text: &[u8]) -> Option<usize> {
        let is_mark = |byte: &u8| matches!(byte, b':' | b' ' | b'-');
        let digits = text.iter().enumerate().filter(|(_, byte)| !is_mark(byte));
        let digits =
            digits.map(|(at, byte)| (at, char::from(*byte).to_digit(16))).collect::<Vec<_>>();
        let value = |pair: &[(usize, Option<u32>)]| Some((pair[0].1? << 4 | pair[1].1?) as u8);
        digits.windows(2 * TOO_MANY).find_map(|window| {
            let bytes = window.chunks(2).map(value).collect::<Option<Vec<_>>>()?;
            self.0.contains(bytes.as_slice()).then_some(window[0].0)
        })
    }

    fn among(&self, bytes: impl Iterator<Item = (usize, u8)>) -> Option<usize> {
        let mut last = [0; TOO_MANY];
        for (at, byte) in bytes {
            last.rotate_left(1);
            last[TOO_MANY - 1] = byte;
            if self.0.contains(&last) {
                return Some(at);
            }
        }
        None
    }
}

/// The numbers in a text that are bytes, whatever stands between them.
fn numbers(text: &[u8]) -> impl Iterator<Item = (usize, u8)> {
    let words = text.split(|byte| !byte.is_ascii_digit()).scan(0, |at, word| {
        let begin = *at;
        *at += word.len() + 1;
        Some((begin, word))
    });
    words.filter_map(|(at, word)| Some((at, std::str::from_utf8(word).ok()?.parse().ok()?)))
}
