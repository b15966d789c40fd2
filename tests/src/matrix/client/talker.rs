//! A client in a process of its own that obeys lines on stdin: `tests/peers/README.md` has them.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{Client, Seen, Visit};
use crate::{netns::NetNs, process::Server};

/// Longest wait for an answer; the peers themselves give up earlier.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Talker {
    orders: ChildStdin,
    answers: Receiver<String>,
    /// Killed when dropped.
    _process: Server,
}

impl Talker {
    pub(super) fn start(ns: &NetNs, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = ns.spawn(command)?;
        let (orders, said) = process.pipes().context("open the client's pipes")?;
        let (sender, answers) = mpsc::channel();
        // Ends with the process, whose end closes the pipe.
        thread::spawn(move || {
            BufReader::new(said)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Ok(Self { orders, answers, _process: process })
    }

    fn ask(&mut self, order: &str) -> Result<String> {
        // An answer that came too late belongs to an earlier order.
        while self.answers.try_recv().is_ok() {}
        self.orders.write_all(format!("{order}\n").as_bytes()).context("the client ended")?;
        self.orders.flush().context("the client ended")?;
        self.answers.recv_timeout(PATIENCE).with_context(|| format!("no answer to `{order}`"))
    }
}

impl Client for Talker {
    fn visit(&mut self, visit: &Visit) -> Result<Seen> {
        let Visit { slot, protocol, source, target } = visit;
        let order = format!(
            "connect {slot} {} {source} {} {}",
            protocol.word(),
            target.ip(),
            target.port()
        );
        seen(&self.ask(&order)?)
    }

    fn forget(&mut self, slot: usize) -> Result<()> {
        match self.ask(&format!("forget {slot}"))?.as_str() {
            "ok" => Ok(()),
            other => bail!("the client says {other}"),
        }
    }
}

fn seen(answer: &str) -> Result<Seen> {
    let words: Vec<_> = answer.split_whitespace().collect();
    match words[..] {
        ["ok", offered @ ("0" | "1"), resumed @ ("0" | "1"), server] => {
            Ok(Seen { offered: offered == "1", resumed: resumed == "1", server: server.to_owned() })
        }
        _ => bail!("{}", answer.strip_prefix("error ").unwrap_or(answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_peer_says() -> Result<()> {
        let expected = Seen { offered: true, resumed: false, server: "backend-2".to_owned() };
        assert_eq!(seen("ok 1 0 backend-2")?, expected);
        Ok(())
    }

    #[test]
    fn an_error_keeps_the_peers_own_words() {
        assert_eq!(
            seen("error connection refused").map_err(|error| error.to_string()),
            Err("connection refused".into())
        );
        assert!(seen("ok 2 0 backend-2").is_err());
        assert!(seen("").is_err());
    }
}
