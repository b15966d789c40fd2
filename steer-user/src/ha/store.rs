//! What is asked of a store (Valkey, Redis): a stream for each gateway, of which others read what
//! comes; parts of all that a gateway knows, with what names them; a hash in which each gateway says
//! that it is there. All keys have the same hash tag, so that they lie in one slot of a cluster.

use std::{
    collections::HashMap, fs, io::Read as _, os::unix::fs::MetadataExt as _, path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use redis::{
    AsyncCommands as _, AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr,
    IntoConnectionInfo as _, RedisConnectionInfo, TlsCertificates, Value,
    aio::MultiplexedConnection,
    streams::{StreamReadOptions, StreamReadReply},
};
use zeroize::Zeroizing;

use super::seal::Purpose;
use crate::config::{Ha, Server};

/// Longest wait for a connection, and for an answer beyond what a command itself waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a command waits for new rows.
pub(super) const BLOCK: Duration = Duration::from_secs(1);
/// Messages that are read at a time.
const READ_MAX: usize = 128;
/// For so long what no gateway writes any more stays.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Longest message that is taken of a store, bytes.
pub(super) const MESSAGE_MAX: usize = 128 << 10;
/// Longest password, bytes.
const PASSWORD_MAX: u64 = 4096;

/// What a gateway must be allowed at a store, beside AUTH: as ACL SETUSER has it.
const COMMANDS: [&str; 11] =
    ["xadd", "xread", "set", "get", "unlink", "hset", "hgetall", "hdel", "time", "ping", "hello"];

/// The rule of the user that a gateway is at a store.
pub fn acl(cluster: &str, user: &str) -> String {
    let commands = COMMANDS.map(|command| format!("+{command}")).join(" ");
    format!(
        "user {user} on >PASSWORD resetkeys ~steer:{{{cluster}}}:* resetchannels -@all {commands}"
    )
}

/// A store that may be reached.
#[derive(Clone, Debug)]
pub(super) struct Store {
    client: Client,
    prefix: String,
}

impl Store {
    /// Reads what is needed to reach one.
    ///
    /// # Errors
    /// Where a file cannot be read, or holds something else.
    pub(super) fn new(ha: &Ha, server: &Server) -> Result<Self> {
        let address = match server {
            Server::Tls(host, port) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
            Server::Loopback(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
            Server::Unix(path) => ConnectionAddr::Unix(path.clone()),
        };
        // Of several that other crates may bring, TLS takes this one.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut who = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(user) = &ha.user {
            who = who.set_username(user);
        }
        if let Some(file) = &ha.password_file {
            who = who.set_password(password(file)?.as_str());
        }
        let info =
            address.into_connection_info().context("name the store")?.set_redis_settings(who);
        let client = match server {
            Server::Tls(..) => Client::build_with_tls(info, certificates(ha)?),
            Server::Loopback(..) | Server::Unix(_) => Client::open(info),
        };
        let client = client.with_context(|| format!("use {server}"))?;
        Ok(Self { client, prefix: format!("steer:{{{}}}:", ha.cluster) })
    }

    /// Reaches it.
    ///
    /// # Errors
    /// Where it does not answer, or refuses.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE + BLOCK));
        let connected = self.client.get_multiplexed_async_connection_with_config(&config).await;
        Ok(Connection { inner: connected.context("connect")?, prefix: self.prefix.clone() })
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}

fn certificates(ha: &Ha) -> Result<TlsCertificates> {
    let client_tls = match (&ha.certificate, &ha.key) {
        (Some(certificate), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
        }
        _ => None,
    };
    let root_cert = ha.ca.as_deref().map(read).transpose()?;
    Ok(TlsCertificates { client_tls, root_cert })
}

fn password(file: &Path) -> Result<Zeroizing<String>> {
    let read = || -> Result<_> {
        let opened = fs::File::open(file)?;
        let mode = opened.metadata()?.mode();
        ensure!(mode & 0o077 == 0, "its mode is {:03o}; expected 600", mode & 0o777);
        let mut text = Zeroizing::new(String::new());
        opened.take(PASSWORD_MAX).read_to_string(&mut text)?;
        let line = text.trim_end_matches(['\n', '\r']);
        ensure!(!line.is_empty(), "it is empty; expected a password");
        Ok(Zeroizing::new(line.to_owned()))
    };
    read().with_context(|| format!("read {}", file.display()))
}

/// A store that was reached.
#[derive(Clone)]
pub(super) struct Connection {
    inner: MultiplexedConnection,
    prefix: String,
}

/// A message of a gateway's stream.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) gateway: String,
    /// Where it stands in the stream.
    pub(super) id: String,
    pub(super) message: Vec<u8>,
}

impl Entry {
    /// When the store got it, milliseconds of its clock.
    pub(super) fn at(&self) -> u64 {
        let time = self.id.split('-').next().unwrap_or_default();
        time.parse().unwrap_or_default()
    }
}

impl Connection {
    fn key(&self, kind: &str, gateway: &str) -> String {
        format!("{}{kind}:{gateway}", self.prefix)
    }

    /// Milliseconds of the store's clock.
    pub(super) async fn time(&mut self) -> Result<u64> {
        let (seconds, micros) =
            redis::cmd("TIME").query_async::<(u64, u64)>(&mut self.inner).await.context("TIME")?;
        Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
    }

    /// Adds messages to a gateway's stream, of which about so many stay; where the last one stands.
    pub(super) async fn add(
        &mut self,
        gateway: &str,
        messages: &[Vec<u8>],
        keep: usize,
    ) -> Result<String> {
        let key = self.key("log", gateway);
        let mut adds = redis::pipe();
        for message in messages {
            let add = adds.cmd("XADD").arg(&key).arg("MAXLEN").arg("~").arg(keep);
            add.arg("*").arg("b").arg(message.as_slice());
        }
        let mut ids: Vec<String> = adds.query_async(&mut self.inner).await.context("XADD")?;
        ids.pop().context("XADD: no answer")
    }

    /// Whether a gateway may write.
    pub(super) async fn try_to_write(&mut self, gateway: &str) -> Result<()> {
        let mut set = redis::cmd("SET");
        set.arg(self.key("try", gateway)).arg("").arg("PX").arg(1000);
        set.query_async(&mut self.inner).await.context("SET")
    }

    /// Messages behind those places in the gateways' streams, and whether those are all there are;
    /// waits for [`BLOCK`] where there is none and `wait` says so.
    pub(super) async fn read(
        &mut self,
        from: &[(String, String)],
        wait: bool,
    ) -> Result<(Vec<Entry>, bool)> {
        if from.is_empty() {
            return Ok((Vec::new(), true));
        }
        let keys = from.iter().map(|(gateway, _)| self.key("log", gateway)).collect::<Vec<_>>();
        let ids = from.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>();
        let mut options = StreamReadOptions::default().count(READ_MAX);
        if wait {
            options = options.block(usize::try_from(BLOCK.as_millis()).unwrap_or(usize::MAX));
        }
        let reply: Option<StreamReadReply> =
            self.inner.xread_options(&keys, &ids, &options).await.context("XREAD")?;
        let (mut entries, mut is_all) = (Vec::new(), true);
        for stream in reply.map(|reply| reply.keys).unwrap_or_default() {
            let Some(at) = keys.iter().position(|key| *key == stream.key) else { continue };
            let Some((gateway, _)) = from.get(at) else { continue };
            is_all &= stream.ids.len() < READ_MAX;
            for id in stream.ids {
                let message = match id.map.get("b") {
                    Some(Value::BulkString(bytes)) => bytes.clone(),
                    _ => Vec::new(),
                };
                entries.push(Entry { gateway: gateway.clone(), id: id.id, message });
            }
        }
        Ok((entries, is_all))
    }

    /// Says that a gateway is there.
    pub(super) async fn say(&mut self, gateway: &str, message: &[u8]) -> Result<()> {
        let key = format!("{}gw", self.prefix);
        self.inner.hset(key, gateway, message).await.context("HSET")
    }

    /// What every gateway said last.
    pub(super) async fn said(&mut self) -> Result<HashMap<String, Vec<u8>>> {
        let key = format!("{}gw", self.prefix);
        self.inner.hgetall(key).await.context("HGETALL")
    }

    /// Forgets that a gateway was there.
    pub(super) async fn unsay(&mut self, gateway: &str) -> Result<()> {
        let key = format!("{}gw", self.prefix);
        self.inner.hdel(key, gateway).await.context("HDEL")
    }

    /// Writes a part of all that a gateway knows, or what names the parts.
    pub(super) async fn put(&mut self, purpose: Purpose, name: &str, message: &[u8]) -> Result<()> {
        let key = self.key(word(purpose), name);
        let mut set = redis::cmd("SET");
        set.arg(key).arg(message).arg("PX").arg(u64::try_from(KEPT.as_millis())?);
        set.query_async(&mut self.inner).await.context("SET")
    }

    /// Reads it; `None` where it is not there.
    pub(super) async fn get(&mut self, purpose: Purpose, name: &str) -> Result<Option<Vec<u8>>> {
        let key = self.key(word(purpose), name);
        self.inner.get(key).await.context("GET")
    }

    /// Removes parts.
    pub(super) async fn remove(&mut self, parts: &[String]) -> Result<()> {
        let keys = parts.iter().map(|name| self.key(word(Purpose::Part), name)).collect::<Vec<_>>();
        for keys in keys.chunks(256) {
            let removed: Result<(), _> = self.inner.unlink(keys).await;
            removed.context("UNLINK")?;
        }
        Ok(())
    }
}

fn word(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Batch => "log",
        Purpose::Part => "part",
        Purpose::Contents => "snap",
        Purpose::Beat => "gw",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_rule_names_the_cluster_and_each_command() {
        let rule = acl("edge", "steer");
        assert!(rule.starts_with("user steer on >PASSWORD resetkeys ~steer:{edge}:* "), "{rule}");
        assert!(rule.contains(" -@all +xadd +xread "), "{rule}");
    }

    #[test]
    fn a_password_is_read_where_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let read = |text: &str, mode| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            password(&file).map(|text| text.to_string()).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read("s3cret \n", 0o600), Ok("s3cret ".to_owned()));
        assert!(read("s3cret", 0o644).unwrap_err().contains("its mode is 644"));
        assert!(read("\n", 0o600).unwrap_err().contains("it is empty"));
    }

    #[test]
    fn an_entry_tells_when_the_store_got_it() {
        let at = |id: &str| {
            Entry { gateway: String::new(), id: id.to_owned(), message: Vec::new() }.at()
        };
        assert_eq!((at("1526919030474-55"), at("x")), (1_526_919_030_474, 0));
    }
}
