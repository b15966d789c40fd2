//! The other stacks' sources, laid out in a directory of their own, with the certificates they
//! read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{
    cell::ClientStack,
    command::{go_peer, java_peer},
    program::Found,
};
use crate::{
    pki::{HOST, Identity, Pki},
    process::mortal,
};

/// By the name that each has in the directory.
const SOURCES: [(&str, &str); 13] = [
    ("main.go", include_str!("../../peers/go/main.go")),
    ("Peer.java", include_str!("../../peers/java/Peer.java")),
    ("python.py", include_str!("../../peers/python/client.py")),
    ("gnutls.py", include_str!("../../peers/gnutls/client.py")),
    ("curl.py", include_str!("../../peers/curl/client.py")),
    ("chromium.py", include_str!("../../peers/chromium/client.py")),
    ("client.mjs", include_str!("../../peers/js/client.mjs")),
    ("server.mjs", include_str!("../../peers/js/server.mjs")),
    ("serve.mjs", include_str!("../../peers/deno/serve.mjs")),
    // A module of that name would be loaded in gunicorn's place.
    ("gunicorn_peer.py", include_str!("../../peers/gunicorn/server.py")),
    ("wolfssl.c", include_str!("../../peers/c/wolfssl.c")),
    ("mbedtls.c", include_str!("../../peers/c/mbedtls.c")),
    ("server.escript", include_str!("../../peers/erlang/server.escript")),
];

/// Sources and certificates; removed when dropped.
pub(super) struct Peers {
    directory: TempDir,
    /// Files of the client, and of the servers by backend: authority, certificate, key.
    client: [PathBuf; 3],
    servers: Vec<[PathBuf; 3]>,
}

impl Peers {
    /// Writes them all.
    pub(super) fn prepare(pki: &Pki, n_backends: usize) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("steer-peers-").tempdir()?;
        let authority = directory.path().join("ca.pem");
        fs::write(&authority, pki.authority_pem()).context("write ca.pem")?;
        let write = |identity| write_identity(directory.path(), &authority, identity);
        let client = write(pki.client())?;
        let servers =
            (0..n_backends).map(|index| write(pki.server(index))).collect::<Result<_>>()?;
        for (name, source) in SOURCES {
            fs::write(directory.path().join(name), source)
                .with_context(|| format!("write {name}"))?;
        }
        Ok(Self { directory, client, servers })
    }

    /// The client's files: authority, certificate, key.
    pub(super) fn client_files(&self) -> &[PathBuf] {
        &self.client
    }

    /// A server's files: authority, certificate, key.
    pub(super) fn server_files(&self, backend: usize) -> &[PathBuf; 3] {
        &self.servers[backend]
    }

    /// Where the sources are, and what is compiled of them.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A client that obeys lines.
    pub(super) fn client(&self, stack: ClientStack, program: &Found) -> Result<Command> {
        let mut command = match stack {
            ClientStack::Go => go_peer(self.directory(), "go", &program.path, "client")?,
            ClientStack::Java => java_peer(self.directory(), &program.path, &[], "client")?,
            ClientStack::Python => self.script("python3", "python.py"),
            ClientStack::Gnutls => self.script("python3", "gnutls.py"),
            ClientStack::Node => self.script(&program.path, "client.mjs"),
            ClientStack::Curl => {
                let mut command = self.script("python3", "curl.py");
                command.arg(&program.path);
                command
            }
            ClientStack::Chromium => {
                // It mounts its certificate store and Chromium's policy where nobody else sees
                // them.
                let mut command = mortal("unshare");
                command.args(["--mount", "python3"]).arg(self.directory().join("chromium.py"));
                command
            }
            ClientStack::Openssl | ClientStack::Rustls => {
                bail!("{stack} is no client that obeys lines")
            }
        };
        command.args(&self.client).arg(HOST);
        Ok(command)
    }

    fn script(&self, program: impl AsRef<std::ffi::OsStr>, name: &str) -> Command {
        let mut command = mortal(program);
        command.arg(self.directory().join(name));
        command
    }
}
/// Writes an identity, and returns its files: authority, certificate, key.
fn write_identity(directory: &Path, authority: &Path, identity: &Identity) -> Result<[PathBuf; 3]> {
    let write = |ending: &str, text: &str| {
        let file = directory.join(format!("{}.{ending}", identity.name));
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        anyhow::Ok(file)
    };
    Ok([
        authority.to_owned(),
        write("pem", identity.certificate_pem())?,
        write("key", &identity.key_pem())?,
    ])
}
