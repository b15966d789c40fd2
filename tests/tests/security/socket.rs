//! The control socket under garbage and crowds: the agent lives, and whoever asks properly is
//! answered.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use steer_tests::{
    agent::{Agent, Hook},
    scenario::{Run, Scenario},
    topology::Family,
};

/// No answer takes so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a crowd may cost the agent, KiB.
const MEMORY: u64 = 16 << 10;

#[test]
fn garbage_is_refused_and_changes_nothing() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    let (before, sessions) = (backends(&steer)?, steer.json("sessions list")?["total"].clone());
    let vip = run.vip();
    let add = |address: &str| {
        format!(r#"{{"verb":"add-backend","vip":"{vip}","address":"{address}","weight":1}}"#)
    };
    let nested = format!(r#"{{"verb":{}"#, "[".repeat(4000));
    let backend = run.backend_address(0);
    for line in [
        b"\xff\xfe\x00\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![0; 5000],
        nested.into_bytes(),
        b"{\"verb\":\"stop\"".to_vec(),
        b"{\"verb\":\"stop\",\"really\":true}\n".to_vec(),
        add("0.0.0.0:443").into_bytes(),
        add("10.2.0.9:0").into_bytes(),
        add("224.0.0.1:443").into_bytes(),
        add("[2001:db8::9]:443").into_bytes(),
        add(&vip.to_string()).into_bytes(),
        add("[::ffff:10.2.0.9]:443").replace(&vip.to_string(), "[fd00:2::10]:443").into_bytes(),
        format!(
            r#"{{"verb":"drain-backend","address":"{backend}","seconds":18446744073709551616}}"#
        )
        .into_bytes(),
        format!(r#"{{"verb":"drain-backend","address":"{backend}","seconds":-1}}"#).into_bytes(),
    ] {
        let answer = ask(&steer, &line)?;
        let what = String::from_utf8_lossy(&line);
        ensure!(
            answer.lines().all(|reply| reply.starts_with(r#"{"reply":"refused","error":""#)),
            "{what}: {answer}"
        );
        ensure!(!answer.is_empty(), "{what}: no answer");
    }
    ensure!(backends(&steer)? == before && steer.json("sessions list")?["total"] == sessions);
    ensure!(run.resume_elsewhere(&run.new_client()?)?.resumed);
    served(&run, &steer)
}

#[test]
fn a_thousand_silent_connections_keep_nobody_out() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    let (pid, memory) = (pid(&steer)?, memory(&steer)?);
    let descriptors = || Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count());
    let own: Result<usize> = descriptors();
    let own = own?;
    let mut crowd = Vec::new();
    for n in 0..1000 {
        let mut stream = UnixStream::connect(steer.socket())?;
        if n % 2 == 1 {
            // Those that were hung up on meanwhile are not to blame.
            let _ = stream.write_all(b"{\"verb\":\"ag");
        }
        crowd.push(stream);
    }
    let start = Instant::now();
    served(&run, &steer)?;
    ensure!(start.elapsed() < PATIENCE, "answered after {:?}", start.elapsed());
    let more = descriptors()?.saturating_sub(own);
    ensure!(more < 300, "{more} descriptors more are open");
    let after = self::memory(&steer)?;
    ensure!(after < memory + MEMORY, "from {memory} to {after} KiB");
    ensure!(crowd[0].read(&mut [0; 1]).is_ok_and(|n| n == 0), "the first of them is hung up on");
    ensure!(!steer.log().contains("accept a request"), "{}", steer.log());
    drop(crowd);
    served(&run, &steer)
}

#[test]
fn a_request_without_end_costs_no_memory() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    let memory = memory(&steer)?;
    let mut sent = 0;
    for _ in 0..20 {
        let mut stream = UnixStream::connect(steer.socket())?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let chunk = vec![b'['; 1 << 20];
        while let Ok(n) = stream.write(&chunk) {
            sent += n;
            ensure!(sent < 64 << 20, "it reads on and on");
        }
    }
    let after = self::memory(&steer)?;
    ensure!(after < memory + MEMORY, "from {memory} to {after} KiB after {sent} bytes");
    served(&run, &steer)
}

/// Sends these bytes and no more, and returns what is answered until the agent hangs up.
fn ask(steer: &Agent<'_>, bytes: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(steer.socket()).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    // A reset follows where bytes were left unread; what was answered before counts.
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8(answer)?)
}

/// The same agent answers, and does what it is asked.
fn served(run: &Run, steer: &Agent<'_>) -> Result<()> {
    let backend = run.backend_address(1);
    steer.steer(&format!("backends drain {backend}"))?;
    ensure!(steer.backend(backend)?["state"] == "draining");
    steer.steer(&format!("backends undrain {backend}"))?;
    ensure!(steer.backend(backend)?["state"] == "up");
    pid(steer).map(drop)
}

fn backends(steer: &Agent<'_>) -> Result<Vec<String>> {
    let list = steer.json("backends list")?;
    let of = |backend: &serde_json::Value| {
        format!("{} {} {}", backend["address"], backend["state"], backend["weight"])
    };
    Ok(list["backends"].as_array().into_iter().flatten().map(of).collect())
}

fn pid(steer: &Agent<'_>) -> Result<u64> {
    steer.json("status")?["agent"]["pid"].as_u64().context("no agent answers")
}

/// Most memory that the agent ever had, KiB.
fn memory(steer: &Agent<'_>) -> Result<u64> {
    let worker = steer.worker().context("no agent runs")?;
    let status = fs::read_to_string(format!("/proc/{worker}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    line.trim().trim_end_matches(" kB").parse().context("no number")
}
