//! `openssl s_client`: a process per connection, its session in a file.

use std::{
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{Client, Seen, Visit};
use crate::{
    matrix::{cell::Protocol, peers::Peers},
    netns::NetNs,
    pki::HOST,
    process::mortal,
};

/// Seconds after which `timeout` ends a connection that hangs.
const PATIENCE: &str = "10";

pub(super) struct OpenSsl<'a> {
    ns: &'a NetNs,
    /// `-CAfile FILE -cert FILE -key FILE`.
    identity: Vec<PathBuf>,
    sessions: TempDir,
}

impl<'a> OpenSsl<'a> {
    pub(super) fn new(ns: &'a NetNs, peers: &Peers) -> Result<Self> {
        let sessions = tempfile::Builder::new().prefix("steer-openssl-").tempdir()?;
        Ok(Self { ns, identity: peers.client_files().to_vec(), sessions })
    }

    fn session(&self, slot: usize) -> PathBuf {
        self.sessions.path().join(slot.to_string())
    }

    fn command(&self, visit: &Visit) -> Command {
        let version = match visit.protocol {
            Protocol::Tls12 => "-tls1_2",
            Protocol::Tls13 => "-tls1_3",
        };
        let mut command = mortal("timeout");
        command.args([
            PATIENCE,
            "openssl",
            "s_client",
            version,
            "-ign_eof",
            "-verify_return_error",
        ]);
        command.args([
            "-servername",
            HOST,
            "-verify_hostname",
            HOST,
            "-connect",
            &visit.target.to_string(),
        ]);
        command.args(["-bind", &SocketAddr::new(visit.source, 0).to_string()]);
        for (option, file) in ["-CAfile", "-cert", "-key"].into_iter().zip(&self.identity) {
            command.arg(option).arg(file);
        }
        let session = self.session(visit.slot);
        if session.exists() {
            command.arg("-sess_in").arg(&session);
        }
        command.arg("-sess_out").arg(session);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Client for OpenSsl<'_> {
    fn visit(&mut self, visit: &Visit) -> Result<Seen> {
        let offered = self.session(visit.slot).exists();
        let mut command = self.command(visit);
        let output = self.ns.run(|| {
            let mut child = command.spawn().context("start openssl")?;
            let mut stdin = child.stdin.take().context("open openssl's stdin")?;
            // The pipe is open until openssl has ended, or it would not wait for the answer. If it
            // ended early, its output says why.
            let written = stdin.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let output = child.wait_with_output().context("wait for openssl")?;
            drop((stdin, written));
            Ok(output)
        })?;
        let Some((resumed, server)) = handshake(&String::from_utf8_lossy(&output.stdout)) else {
            bail!(
                "openssl: {}",
                String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")
            );
        };
        Ok(Seen { offered, resumed, server })
    }

    fn forget(&mut self, slot: usize) -> Result<()> {
        let session = self.session(slot);
        if session.exists() {
            std::fs::remove_file(session).context("forget a session")?;
        }
        Ok(())
    }
}

/// Whether the session was reused, and the name in the server's certificate.
fn handshake(said: &str) -> Option<(bool, String)> {
    let resumed = said.lines().find_map(|line| match line.split(',').next()? {
        "Reused" => Some(true),
        "New" => Some(false),
        _ => None,
    })?;
    let subject = said.lines().find_map(|line| line.strip_prefix("subject="))?;
    let name = subject.split_once("CN").and_then(|(_, rest)| rest.split_once('='))?.1;
    // A failed handshake is described as a new session of no cipher.
    (!said.contains("Cipher is (NONE)")).then(|| (resumed, name.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_s_client_says() {
        let full = "CONNECTED(00000003)\n---\nsubject=CN = backend-1\n\n---\nNew, TLSv1.3, Cipher is AES\n";
        assert_eq!(handshake(full), Some((false, "backend-1".to_owned())));
        let resumed = "---\nsubject=CN=backend-0\n---\nReused, TLSv1.2, Cipher is AES\n";
        assert_eq!(handshake(resumed), Some((true, "backend-0".to_owned())));
    }

    #[test]
    fn a_failed_handshake_is_none() {
        assert_eq!(
            handshake("no peer certificate available\nNew, (NONE), Cipher is (NONE)\n"),
            None
        );
        assert_eq!(handshake("subject=CN = backend-1\nNew, (NONE), Cipher is (NONE)\n"), None);
    }
}
