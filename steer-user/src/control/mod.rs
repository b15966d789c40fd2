//! The agent's Unix socket: one JSON object a line asks, one answers. For what needs the agent; everything else the CLI
//! reads from the pinned maps.

mod client;
mod server;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use client::{ask, ask_about};
pub(crate) use server::{bind, remove_socket, serve};

/// What the CLI asks of the agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who is there?
    Agent,
    /// Put a backend into a pool, or give it another weight.
    AddBackend {
        /// The VIP of the pool.
        vip: SocketAddr,
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
    /// End, leaving everything in place.
    Stop,
}

/// What the agent answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// It is not done, and why.
    Refused {
        /// A sentence.
        error: String,
    },
    /// The agent itself.
    Agent {
        /// Its process.
        pid: u32,
        /// Its version.
        version: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_documented_shape() {
        let request = Request::DrainBackend { address: "10.0.0.1:443".parse().unwrap(), seconds: Some(60) };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"verb":"drain-backend","address":"10.0.0.1:443","seconds":60}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }

    #[test]
    fn replies_have_the_documented_shape() {
        let reply = Reply::Refused { error: "no".into() };
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"reply":"refused","error":"no"}"#);
        assert_eq!(serde_json::to_string(&Reply::Done).unwrap(), r#"{"reply":"done"}"#);
    }
}
