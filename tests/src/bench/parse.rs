//! What it costs to read a hello in the kernel, and to look up in vain whatever it offers.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use steer_common::wire::tls::extension;

/// Repetitions of the whole measurement; medians are printed.
const ROUNDS: usize = 7;
/// Runs of a program on one packet.
const RUNS: u32 = 100_000;
/// Ethernet, IPv4 and TCP headers without options.
const HEADERS: usize = 54;

/// Measures the decision on hellos of several kinds, above an empty program, interleaved.
///
/// # Errors
/// When the programs cannot be loaded or run.
pub fn parse(object: &Path, json: bool) -> Result<()> {
    let bytes = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries("sessions", 1024)
        .map_max_entries("flows", 1024)
        .map_max_entries("splices", 1024)
        .map_max_entries("handshakes", 1024)
        .map_max_entries("pending", 16)
        .load(&bytes)
        .context("load the measured programs")?;
    for name in ["bench_empty", "bench_parse"] {
        program(&mut ebpf, name)?.load().with_context(|| format!("load {name}"))?;
    }
    let hellos = [
        ("session ID, 200 B", hello(200, Offer::SessionId)),
        ("ticket, 450 B", hello(450, Offer::Ticket)),
        ("PSK at the end, 600 B", hello(600, Offer::Psk)),
        ("PSK at the end, 1500 B", hello(1500, Offer::Psk)),
        ("PSK at the end, 3500 B", hello(3500, Offer::Psk)),
    ];
    let mut times = BTreeMap::<usize, Vec<u64>>::new();
    let mut floors = Vec::new();
    for _ in 0..ROUNDS {
        for (index, (_, hello)) in hellos.iter().enumerate() {
            floors.push(time(&mut ebpf, "bench_empty", hello)?);
            times.entry(index).or_default().push(time(&mut ebpf, "bench_parse", hello)?);
        }
    }
    report(&hellos.map(|(name, _)| name), times, median(floors), json);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn report(names: &[&str], times: BTreeMap<usize, Vec<u64>>, floor: u64, json: bool) {
    println!(
        "a hello read and looked up in vain, BPF_PROG_TEST_RUN, medians of {ROUNDS} x {RUNS} runs"
    );
    println!("{:<26} {:>10} {:>10}", "", "ns", "above empty");
    println!("{:<26} {floor:>10}", "an empty program");
    let mut cases = Vec::new();
    for (name, times) in names.iter().zip(times.into_values()) {
        let raw = median(times);
        println!("{name:<26} {raw:>10} {:>10}", raw.saturating_sub(floor));
        cases.push(serde_json::json!({
            "case": name, "raw_ns": raw, "floor_ns": floor, "net_ns": raw.saturating_sub(floor),
        }));
    }
    if json {
        println!("{}", serde_json::json!({ "cases": cases }));
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program =
        ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    program.try_into().with_context(|| format!("take the program {name}"))
}

/// Nanoseconds of one run.
fn time(ebpf: &mut Ebpf, name: &str, hello: &[u8]) -> Result<u64> {
    let frame = [&[0; HEADERS][..], hello].concat();
    let options =
        TestRunOptions { data_in: Some(&frame), repeat: RUNS, ..TestRunOptions::default() };
    let ran = program(ebpf, name)?.test_run(options).with_context(|| format!("run {name}"))?;
    Ok(u64::try_from(ran.duration.as_nanos()).unwrap_or(u64::MAX))
}

pub(super) fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    Nothing,
    SessionId,
    Ticket,
    Psk,
}

/// A hello of `len` bytes with the extensions that stacks send; what is missing of its length is a
/// key share.
pub(super) fn hello(len: usize, offer: Offer) -> Vec<u8> {
    let id = if matches!(offer, Offer::Ticket | Offer::Nothing) { 0u8 } else { 32 };
    let extension = |kind: u16, body: &[u8]| {
        [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat()
    };
    let mut extensions: Vec<Vec<u8>> =
        [(10, 8), (11, 2), (13, 18), (16, 14), (23, 0), (0xff01, 1), (5, 5)]
            .map(|(kind, n)| extension(kind, &vec![0; n]))
            .to_vec();
    let ticket = match offer {
        Offer::Nothing | Offer::SessionId => Vec::new(),
        Offer::Ticket => extension(extension::SESSION_TICKET, &[7; 192]),
        Offer::Psk => {
            extensions.push(extension(extension::SUPPORTED_VERSIONS, &[4, 3, 4, 3, 3]));
            let identity = [&[0, 200][..], &[9; 200], &[0; 4]].concat();
            let list =
                [&(identity.len() as u16).to_be_bytes()[..], &identity, &[0, 33, 32], &[1; 32]]
                    .concat();
            extension(extension::PRE_SHARED_KEY, &list)
        }
    };
    let body = |extensions: &[u8]| {
        let mut body =
            [&[3, 3][..], &[5; 32], &[id], &vec![6; id.into()], &[0, 30], &[0; 30], &[1, 0]]
                .concat();
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        body
    };
    let bare = 9 + body(&[extensions.concat(), ticket.clone()].concat()).len();
    extensions.push(extension(51, &vec![8; len.saturating_sub(bare + 4)]));
    extensions.push(ticket);
    let body = body(&extensions.concat());
    let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [&[0x16, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}
