//! Mistakes in the wiring and settings of a gateway are named while it runs, and what can be done
//! about them is done.

mod links;
mod log;
mod machine;
mod neighbours;
mod traffic;
mod xdp;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result};
use steer_tests::{agent::Agent, process::eventually, scenario::Run};

/// Whatever is wrong is named within so long.
const NAMED: Duration = Duration::from_secs(30);
/// Where the lab's agents serve metrics, in the gateway.
const METRICS: &str = "127.0.0.1:9464";

/// Waits until `steer status` warns in these words.
fn warned(steer: &Agent<'_>, words: &str) -> Result<()> {
    let warns = || {
        steer
            .json("status")
            .is_ok_and(|status| status["warnings"].to_string().contains(words))
            .then_some(())
    };
    let status =
        || steer.json("status").map(|status| status["warnings"].to_string()).unwrap_or_default();
    eventually(NAMED, warns)
        .with_context(|| format!("no warning about {words:?}: {}; log: {}", status(), steer.log()))
}

/// Waits until `steer status` does not warn in these words any more.
fn calm(steer: &Agent<'_>, words: &str) -> Result<()> {
    let calm = || {
        steer
            .json("status")
            .is_ok_and(|status| !status["warnings"].to_string().contains(words))
            .then_some(())
    };
    eventually(NAMED, calm).with_context(|| format!("still a warning about {words:?}"))
}

/// Waits until the agent has logged these words.
fn logged(steer: &Agent<'_>, words: &str) -> Result<()> {
    let said = || steer.log().contains(words).then_some(());
    eventually(NAMED, said).with_context(|| format!("no line with {words:?} in: {}", steer.log()))
}

/// What the metrics say now.
fn metrics(run: &Run) -> Result<String> {
    run.lab.gateway().run(|| {
        let mut stream = TcpStream::connect(METRICS)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// Waits until the metric of a kind of warning has this value.
fn metered(run: &Run, kind: &str, value: u8) -> Result<()> {
    let line = format!("steer_warning{{kind=\"{kind}\"}} {value}\n");
    let said = || metrics(run).is_ok_and(|text| text.contains(&line)).then_some(());
    eventually(NAMED, said).with_context(|| format!("no {line}"))
}
