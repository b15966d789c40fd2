//! What is asked of the agent, and what it answers: lines of JSON.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    agent::{Held, checks::Warning},
    ha,
    service::Service,
};

/// Longest request with its end of line, bytes.
pub const REQUEST_MAX: usize = 4096;

/// What the CLI asks of the agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who is there?
    Agent {},
    /// What is wrong?
    Warnings {},
    /// Put a backend into a pool, or give it another weight.
    AddBackend {
        /// The VIP of the pool, or the name of an inline one.
        vip: Service,
        /// The backend.
        address: SocketAddr,
        /// Its share of new flows.
        weight: u16,
    },
    /// Take a backend out of its pool.
    RemoveBackend {
        /// The backend.
        address: SocketAddr,
    },
    /// Give a backend no new sessions.
    DrainBackend {
        /// The backend.
        address: SocketAddr,
        /// Seconds until its sessions go elsewhere too; absent: never.
        seconds: Option<u64>,
    },
    /// End a drain.
    UndrainBackend {
        /// The backend.
        address: SocketAddr,
    },
    /// Give a backend neither new sessions nor those it owns.
    DisableBackend {
        /// The backend.
        address: SocketAddr,
    },
    /// Treat a backend as down, whatever its checks say.
    OffBackend {
        /// The backend.
        address: SocketAddr,
    },
    /// End a drain, and what else an operator made of a backend.
    EnableBackend {
        /// The backend.
        address: SocketAddr,
    },
    /// What do backends hold?
    Held {},
    /// Take new connections to VIPs again, as after a start: those that the kernel took meanwhile
    /// stay its own.
    EndLeave {},
    /// End, leaving everything in place.
    Stop {},
    /// What is in force?
    Config {},
    /// How goes what other gateways are told and tell?
    Ha {},
    /// Put a configuration in force: all of it, or nothing.
    Reload {
        /// The file, for errors to name it; absent: the one that the agent was started with.
        file: Option<PathBuf>,
        /// Its length, bytes: so many follow behind the line. Only with a file.
        length: Option<u32>,
        /// Even where that destroys what tables hold.
        force: bool,
    },
}

/// What the agent answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// It is not done, and why.
    Refused {
        /// A sentence.
        error: String,
    },
    /// What is in force.
    Config {
        /// Where it was read.
        file: PathBuf,
        /// What stood there.
        text: String,
        /// What the agent reads when it is told to reload no other file.
        own: PathBuf,
        /// What its command line says of `pin_dir`, whatever a file does.
        pin_dir: Option<PathBuf>,
        /// The same of `socket`.
        socket: Option<PathBuf>,
    },
    /// It is in force.
    Reloaded {
        /// Where it was read.
        file: PathBuf,
        /// What it changed, as sentences.
        changes: Vec<String>,
    },
    /// How replication goes.
    Ha {
        /// Null where no other gateways are told anything.
        ha: Option<ha::Report>,
    },
    /// What needs attention.
    Warnings {
        /// Each with its kind.
        warnings: Vec<Warning>,
    },
    /// What the last sweep met at each backend.
    Held {
        /// Null before the first one.
        held: Option<Held>,
    },
    /// The agent itself.
    Agent {
        /// Its process.
        pid: u32,
        /// Its version.
        version: String,
        /// Where the state of its gateway is pinned.
        pin_dir: PathBuf,
    },
}

impl Request {
    /// Reads a line; an error is a sentence for who asked.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        if line.len() >= REQUEST_MAX && !line.ends_with(b"\n") {
            return Err(format!("no request of ours: longer than {REQUEST_MAX} bytes"));
        }
        serde_json::from_slice(line).map_err(|error| format!("no request of ours: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_have_the_documented_shape() {
        let request =
            Request::DrainBackend { address: "10.0.0.1:443".parse().unwrap(), seconds: Some(60) };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"verb":"drain-backend","address":"10.0.0.1:443","seconds":60}"#);
        assert_eq!(Request::parse(text.as_bytes()).unwrap(), request);
    }

    #[test]
    fn replies_have_the_documented_shape() {
        let reply = Reply::Refused { error: "no".into() };
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"reply":"refused","error":"no"}"#);
        assert_eq!(serde_json::to_string(&Reply::Done).unwrap(), r#"{"reply":"done"}"#);
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_reason() {
        let nested = r#"{"verb":"stop","now":"#.to_owned() + &"[".repeat(4000) + "\n";
        for (line, reason) in [
            (&b""[..], "EOF"),
            (b"\n", "EOF"),
            (b"hello\n", "column 1"),
            (b"{\"verb\":\"sto", "EOF"),
            (b"{\"verb\":\"stop\"}{\"verb\":\"stop\"}\n", "trailing characters"),
            (b"{\"verb\":\"reboot\"}\n", "unknown variant `reboot`"),
            (b"{\"verb\":\"stop\",\"now\":1}\n", "unknown field `now`"),
            (b"{\"verb\":\"stop\",\"verb\":\"agent\"}\n", "duplicate field"),
            (b"{\"verb\":\"drain-backend\"}\n", "missing field `address`"),
            (b"{\"verb\":\"drain-backend\",\"address\":\"10.0.0.1:70000\"}\n", "socket address"),
            (
                b"{\"verb\":\"drain-backend\",\"address\":\"10.0.0.1:443\",\"seconds\":-1}\n",
                "invalid value",
            ),
            (
                b"{\"verb\":\"drain-backend\",\"address\":\"10.0.0.1:443\",\"seconds\":1e300}\n",
                "invalid type",
            ),
            (b"{\"verb\":\"\xff\xfe\"}\n", "unicode"),
            (nested.as_bytes(), "recursion limit"),
            (&[b' '; REQUEST_MAX], "longer than 4096 bytes"),
        ] {
            let error = Request::parse(line).unwrap_err();
            assert!(error.starts_with("no request of ours: ") && error.contains(reason), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_damaged_request_is_refused_or_is_a_request(
            at in 0usize..62,
            bytes in prop::collection::vec(any::<u8>(), 0..9),
            cut in 0usize..62,
        ) {
            let mut line = br#"{"verb":"drain-backend","address":"10.0.0.1:443","seconds":60}"#.to_vec();
            line.splice(at..(at + cut).min(line.len()), bytes);
            match Request::parse(&line) {
                Ok(request) => prop_assert_eq!(
                    Request::parse(serde_json::to_string(&request).unwrap().as_bytes()), Ok(request)
                ),
                Err(sentence) => prop_assert!(sentence.len() > 20),
            }
        }
    }
}
