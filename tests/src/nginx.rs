//! A backend: nginx with mutual TLS 1.2, its own session cache, and no tickets.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    netns::NetNs,
    payload,
    pki::Pki,
    process::{Server, eventually, mortal},
    topology::PORT,
};

/// How an nginx is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program, by its name in PATH or its path.
    pub program: PathBuf,
    /// `ssl_protocols`.
    pub protocols: String,
    /// `ssl_session_timeout`.
    pub session_timeout: String,
    /// `ssl_session_tickets`.
    pub tickets: bool,
    /// The keys of its tickets.
    pub ticket_key: TicketKey,
    /// `ssl_verify_client`.
    pub verify_client: String,
    /// All show the certificate of the first.
    pub one_certificate: bool,
    /// `ssl_ecdh_curve`.
    pub curves: String,
    /// Additions to `listen`: `deferred`, `backlog=1`.
    pub listen: String,
    /// `client_header_timeout`, for which it also waits for a hello.
    pub patience: String,
    /// `keepalive_timeout`: how long a connection stays open between requests.
    pub keepalive: String,
    /// How fast `/slow/` is, a second.
    pub rate: String,
    /// Whether `/files/` takes uploads, for which not every build of nginx has the module.
    pub uploads: bool,
}

/// Whose keys seal a backend's tickets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TicketKey {
    /// One it makes for itself.
    Private,
    /// Its own key file, whose name is [`key_name`] of its index.
    Named,
    /// One key file for all.
    Shared,
}

/// The name in the key file of a backend, 16 bytes.
pub fn key_name(index: usize) -> [u8; 16] {
    let mut name = *b"lab backend key ";
    name[15] = b'0' + index as u8;
    name
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            program: "nginx".into(),
            protocols: "TLSv1.2".to_owned(),
            session_timeout: "10m".to_owned(),
            tickets: false,
            ticket_key: TicketKey::Private,
            verify_client: "on".to_owned(),
            one_certificate: false,
            curves: "X25519:prime256v1".to_owned(),
            listen: "backlog=4096".to_owned(),
            patience: "60s".to_owned(),
            keepalive: "0".to_owned(),
            rate: "100k".to_owned(),
            uploads: true,
        }
    }
}

/// A running nginx; stopped when dropped.
pub struct Nginx {
    server: Mutex<Option<Server>>,
    directory: TempDir,
    address: SocketAddr,
    program: PathBuf,
}

impl Nginx {
    /// Starts backend `index` in its namespace and waits until it listens at `address`.
    ///
    /// # Errors
    /// With nginx's own words when it does not start.
    pub fn start(
        ns: &NetNs,
        pki: &Pki,
        index: usize,
        address: SocketAddr,
        settings: &Settings,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("steer-nginx-").tempdir()?;
        let (identity, own) =
            (pki.server(if settings.one_certificate { 0 } else { index }), pki.server(index));
        let write = |name: &str, text: &str| {
            fs::write(directory.path().join(name), text).with_context(|| name.to_owned())
        };
        write("ca.pem", &pki.authority_pem())?;
        write("server.pem", identity.certificate_pem())?;
        write("server.key", &identity.key_pem())?;
        write("nginx.conf", &config(&own.name, settings))?;
        let key = match settings.ticket_key {
            TicketKey::Private => None,
            TicketKey::Named => Some(index),
            TicketKey::Shared => Some(0),
        };
        if let Some(index) = key {
            // Name, HMAC key and AES key.
            let key = [&key_name(index)[..], &payload::bytes(64, 100 + index as u64)].concat();
            fs::write(directory.path().join("ticket.key"), key).context("write ticket.key")?;
        }
        fs::create_dir(directory.path().join("files"))?;
        let nginx = Self {
            server: Mutex::new(None),
            directory,
            address,
            program: settings.program.clone(),
        };
        nginx.restart(ns)?;
        Ok(nginx)
    }

    /// Starts it again after [`Nginx::stop`], its files kept, its session cache empty.
    ///
    /// # Errors
    /// With nginx's own words when it does not start.
    pub fn restart(&self, ns: &NetNs) -> Result<()> {
        let prefix = self.directory.path().to_string_lossy().into_owned();
        let mut command = mortal(&self.program);
        command.args(["-p", &prefix, "-c", "nginx.conf", "-e", "error.log"]);
        *self.server() = Some(ns.spawn(command)?);
        let answers = || TcpStream::connect_timeout(&self.address, Duration::from_millis(200)).ok();
        let up = ns.run(|| Ok(eventually(Duration::from_secs(5), answers).is_some()))?;
        if !up {
            bail!("nginx does not listen at {}: {}", self.address, self.log("error.log"));
        }
        Ok(())
    }

    /// Stops it at once; its port then refuses connections.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self) -> Result<()> {
        match self.server().take() {
            Some(mut server) => server.end(Signal::SIGKILL).map(drop),
            None => Ok(()),
        }
    }

    /// Sends its process a signal: SIGSTOP freezes it, while its kernel still accepts connections.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.server().as_ref().context("it does not run")?.signal(signal)
    }

    /// Its process id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.server().as_ref().map(Server::id)
    }

    /// Puts a file where clients can download it, and returns its SHA-256.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<String> {
        fs::write(self.file(name), bytes).with_context(|| format!("write {name}"))?;
        Ok(payload::sha256(bytes))
    }

    /// SHA-256 of a file that a client uploaded.
    ///
    /// # Errors
    /// When there is none.
    pub fn uploaded(&self, name: &str) -> Result<String> {
        Ok(payload::sha256(&self.uploaded_bytes(name)?))
    }

    /// A file that a client uploaded.
    ///
    /// # Errors
    /// When there is none.
    pub fn uploaded_bytes(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.file(name)).with_context(|| format!("nothing was uploaded as {name}"))
    }

    /// How many requests it answered.
    pub fn n_requests(&self) -> usize {
        self.log("access.log").lines().count()
    }

    /// The text of one of its logs: `error.log`, `access.log`.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("files").join(name)
    }
}

/// One process (`master_process off`), so that one signal ends it. `/` answers `name reused
/// verified`, where nginx's own view of the session stands as `r` or `.`; `/files/` serves
/// downloads and takes uploads (PUT); `/slow/` serves the same files at [`Settings::rate`], with
/// pauses.
fn config(name: &str, settings: &Settings) -> String {
    let Settings {
        protocols,
        session_timeout,
        listen,
        patience,
        keepalive,
        rate,
        curves,
        verify_client,
        ..
    } = settings;
    let key = if settings.ticket_key == TicketKey::Private {
        ""
    } else {
        "ssl_session_ticket_key ticket.key;"
    };
    let tickets = if settings.tickets { "on" } else { "off" };
    let uploads = if settings.uploads { "dav_methods PUT;" } else { "" };
    format!(
        r#"daemon off;
master_process off;
user root;
pid nginx.pid;
worker_rlimit_nofile 8192;
events {{ worker_connections 4000; multi_accept on; }}
http {{
  log_format lab '$remote_addr $request_uri $status $ssl_session_reused';
  access_log access.log lab;
  keepalive_timeout {keepalive};
  client_header_timeout {patience};
  client_max_body_size 256m;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen {PORT} ssl {listen};
    listen [::]:{PORT} ssl {listen};
    ssl_certificate server.pem;
    ssl_certificate_key server.key;
    ssl_client_certificate ca.pem;
    ssl_verify_client {verify_client};
    ssl_protocols {protocols};
    ssl_ecdh_curve {curves};
    ssl_early_data on;
    ssl_session_cache shared:{name}:10m;
    ssl_session_timeout {session_timeout};
    ssl_session_tickets {tickets};
    {key}
    location = / {{ return 200 "{name} $ssl_session_reused $ssl_client_verify\n"; }}
    location /files/ {{ root .; {uploads} }}
    location /slow/ {{ alias files/; limit_rate {rate}; }}
  }}
}}
"#
    )
}
