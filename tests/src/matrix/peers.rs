//! The other stacks' ends, built and laid out in a directory of their own, with the certificates they read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::cell::{ClientStack, Protocol, ServerStack};
use crate::{
    pki::{HOST, Identity, Pki},
    process::{self, mortal},
    topology::PORT,
};

const GO: &str = include_str!("../../peers/go/main.go");
const JAVA: &str = include_str!("../../peers/java/Peer.java");
const PYTHON: &str = include_str!("../../peers/python/client.py");
const GNUTLS: &str = include_str!("../../peers/gnutls/client.py");
const CHROMIUM: &str = include_str!("../../peers/chromium/client.py");

/// As `tests/peers/chromium/client.py` starts it: without Debian's wrapper, which reads settings of the machine.
const CHROMIUM_PROGRAM: &str = "/usr/lib/chromium/chromium";

/// What keeps a JVM small and quick to start.
const JVM: [&str; 3] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx64m"];

/// Whether Debian's Chromium is there, and what fills its certificate store.
pub(super) fn has_chromium() -> bool {
    [CHROMIUM_PROGRAM, "/usr/bin/certutil", "/usr/bin/pk12util"].iter().all(|program| Path::new(program).is_file())
}

/// Programs and certificates; removed when dropped.
pub(super) struct Peers {
    directory: TempDir,
    /// Files of the client, and of the servers by backend: authority, certificate, key.
    client: [PathBuf; 3],
    servers: Vec<[PathBuf; 3]>,
}

impl Peers {
    /// Builds what these stacks need.
    pub(super) fn prepare(
        pki: &Pki,
        n_backends: usize,
        clients: &[ClientStack],
        servers: &[ServerStack],
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("steer-peers-").tempdir()?;
        let authority = directory.path().join("ca.pem");
        fs::write(&authority, pki.authority_pem()).context("write ca.pem")?;
        let write = |identity| write_identity(directory.path(), &authority, identity);
        let client = write(pki.client())?;
        let identities = (0..n_backends).map(|index| write(pki.server(index))).collect::<Result<_>>()?;
        let peers = Self { directory, client, servers: identities };
        let scripts = [("python.py", PYTHON), ("gnutls.py", GNUTLS), ("chromium.py", CHROMIUM)];
        for (name, source) in [("main.go", GO), ("Peer.java", JAVA)].into_iter().chain(scripts) {
            fs::write(peers.file(name), source).with_context(|| format!("write {name}"))?;
        }
        if clients.contains(&ClientStack::Go) || servers.contains(&ServerStack::Go) {
            peers.build_go()?;
        }
        if clients.contains(&ClientStack::Java) || servers.contains(&ServerStack::Java) {
            let mut javac = Command::new("javac");
            process::run(javac.arg("-d").arg(peers.directory.path()).arg(peers.file("Peer.java")))?;
        }
        Ok(peers)
    }

    /// The client's files: authority, certificate, key.
    pub(super) fn client_files(&self) -> &[PathBuf] {
        &self.client
    }

    /// A client that obeys lines.
    pub(super) fn client(&self, stack: ClientStack) -> Result<Command> {
        let mut command = match stack {
            ClientStack::Go => self.go("client"),
            ClientStack::Java => self.java(&[], "client"),
            ClientStack::Python => self.python("python.py"),
            ClientStack::Gnutls => self.python("gnutls.py"),
            ClientStack::Chromium => {
                // It mounts its certificate store and Chromium's policy where nobody else sees them.
                let mut command = mortal("unshare");
                command.args(["--mount", "python3"]).arg(self.file("chromium.py"));
                command
            }
            ClientStack::Openssl | ClientStack::Rustls => bail!("{stack} is no client that obeys lines"),
        };
        command.args(&self.client).arg(HOST);
        Ok(command)
    }

    /// A server that is a process, for a backend; nginx is none of them.
    pub(super) fn server(
        &self,
        stack: ServerStack,
        backend: usize,
        protocol: Protocol,
        tickets: bool,
    ) -> Result<Command> {
        let files = &self.servers[backend];
        Ok(match stack {
            ServerStack::Nginx => bail!("nginx has a module of its own"),
            ServerStack::Gnutls => gnutls_serv(files, protocol, tickets),
            ServerStack::Go => {
                let mut command = self.go("server");
                let tickets = if tickets { "on" } else { "off" };
                command.args(files).args([&format!(":{PORT}"), protocol.word(), tickets]);
                command
            }
            ServerStack::Java => {
                let tickets = format!("-Djdk.tls.server.enableSessionTicketExtension={tickets}");
                let mut command = self.java(&[&tickets], "server");
                command.args(files).args([&PORT.to_string(), protocol.word()]);
                command
            }
        })
    }

    fn build_go(&self) -> Result<()> {
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(self.file("go-peer")).arg(self.file("main.go"));
        // Only the standard library: no module, no download.
        build.current_dir(self.directory.path()).env("GO111MODULE", "off").env("GOFLAGS", "");
        process::run(&mut build).map(drop)
    }

    fn go(&self, role: &str) -> Command {
        let mut command = mortal(self.file("go-peer"));
        command.arg(role);
        command
    }

    fn java(&self, options: &[&str], role: &str) -> Command {
        let mut command = mortal("java");
        command.args(JVM).args(options).arg("-cp").arg(self.directory.path()).args(["Peer", role]);
        command
    }

    fn python(&self, script: &str) -> Command {
        let mut command = mortal("python3");
        command.arg(self.file(script));
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn gnutls_serv([ca, cert, key]: &[PathBuf; 3], protocol: Protocol, tickets: bool) -> Command {
    let version = match protocol {
        Protocol::Tls12 => "TLS1.2",
        Protocol::Tls13 => "TLS1.3",
    };
    let mut command = mortal("gnutls-serv");
    command.args(["--http", "--quiet", "--require-client-cert", "--verify-client-cert", "--port", &PORT.to_string()]);
    command.arg("--x509cafile").arg(ca).arg("--x509certfile").arg(cert).arg("--x509keyfile").arg(key);
    command.args(["--priority", &format!("NORMAL:-VERS-ALL:+VERS-{version}")]);
    if !tickets {
        command.arg("--noticket");
    }
    command
}

/// Writes an identity, and returns its files: authority, certificate, key.
fn write_identity(directory: &Path, authority: &Path, identity: &Identity) -> Result<[PathBuf; 3]> {
    let write = |ending: &str, text: &str| {
        let file = directory.join(format!("{}.{ending}", identity.name));
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        anyhow::Ok(file)
    };
    Ok([authority.to_owned(), write("pem", identity.certificate_pem())?, write("key", &identity.key_pem())?])
}
