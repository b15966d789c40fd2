//! `[ha]`: what this gateway learns other gateways know, by way of stores.

use std::{fmt, net::IpAddr, path::PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, error::Source};

/// Name of the cluster unless told otherwise.
const CLUSTER: &str = "steer";
/// Longest name of a cluster or gateway, bytes.
const NAME_MAX: usize = 64;
/// Most stores.
const SERVERS_MAX: usize = 8;
/// Where a store listens unless told otherwise.
const PORT: u16 = 6379;

/// How gateways know what the others learned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ha {
    /// The stores: each has all.
    pub servers: Vec<Server>,
    /// Gateways of one cluster know of each other.
    pub cluster: String,
    /// This gateway among them.
    pub name: String,
    /// The key that seals what stores get.
    pub key_file: PathBuf,
    /// The authorities that a store's certificate must be of, in PEM; `None`: the machine's.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown to stores, in PEM; there where `key` is.
    pub certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    pub key: Option<PathBuf>,
    /// Who the gateway is at its stores; `None`: the default user.
    pub user: Option<String>,
    /// The user's password.
    pub password_file: Option<PathBuf>,
}

impl Ha {
    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let maybe = [&self.ca, &self.certificate, &self.key, &self.password_file];
        std::iter::once(&self.key_file).chain(maybe.into_iter().flatten())
    }
}

/// A store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Server {
    /// `rediss://HOST[:PORT]`: by TLS.
    Tls(String, u16),
    /// `redis://HOST[:PORT]`: of this machine.
    Loopback(String, u16),
    /// `unix:///PATH`: a socket of this machine.
    Unix(PathBuf),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(host, port) => write!(f, "rediss://{host}:{port}"),
            Self::Loopback(host, port) => write!(f, "redis://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    servers: Spanned<Vec<Spanned<String>>>,
    cluster: Option<Spanned<String>>,
    name: Option<Spanned<String>>,
    key_file: Spanned<PathBuf>,
    ca: Option<Spanned<PathBuf>>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    user: Option<Spanned<String>>,
    password_file: Option<Spanned<PathBuf>>,
}

type Result<T> = std::result::Result<T, ConfigError>;

/// Judges the table.
pub(super) fn check(raw: Raw, source: &Source<'_>) -> Result<Ha> {
    let list = raw.servers.get_ref();
    if list.is_empty() || list.len() > SERVERS_MAX {
        let message = format!("{} stores; expected 1 to {SERVERS_MAX}", list.len());
        return Err(source.error(&raw.servers.span(), message));
    }
    let mut servers = Vec::new();
    for url in list {
        let server = server(url.get_ref());
        let server = server.map_err(|message| source.error(&url.span(), message))?;
        if servers.contains(&server) {
            let message = format!("{server} stands here twice; expected each store once");
            return Err(source.error(&url.span(), message));
        }
        servers.push(server);
    }
    let cluster = raw.cluster.map(|name| name_of(&name, source)).transpose()?;
    let name = match raw.name {
        Some(name) => name_of(&name, source)?,
        None => own_name().ok_or_else(|| {
            let why = "no `name`, and this machine's is none of up to 64 letters, digits, `.`, `-` and `_`";
            source.error(&raw.servers.span(), why)
        })?,
    };
    if raw.certificate.is_some() != raw.key.is_some() {
        let lone = raw.certificate.as_ref().or(raw.key.as_ref()).map_or(0..0, Spanned::span);
        return Err(source.error(&lone, "expected both `certificate` and `key`, or neither"));
    }
    let has_tls = servers.iter().any(|server| matches!(server, Server::Tls(..)));
    if let (Some(file), false) = (raw.ca.as_ref().or(raw.certificate.as_ref()), has_tls) {
        let why = "says nothing of stores without TLS; expected a `rediss://` among `servers`";
        return Err(source.error(&file.span(), why));
    }
    if let Some(user) = raw.user.as_ref().filter(|_| raw.password_file.is_none()) {
        return Err(source.error(&user.span(), "expected `password_file` beside `user`"));
    }
    let path = |path: Option<Spanned<PathBuf>>| path.map(|path| absolute(path, source)).transpose();
    Ok(Ha {
        servers,
        cluster: cluster.unwrap_or_else(|| CLUSTER.to_owned()),
        name,
        key_file: absolute(raw.key_file, source)?,
        ca: path(raw.ca)?,
        certificate: path(raw.certificate)?,
        key: path(raw.key)?,
        user: raw.user.map(Spanned::into_inner),
        password_file: path(raw.password_file)?,
    })
}

fn absolute(path: Spanned<PathBuf>, source: &Source<'_>) -> Result<PathBuf> {
    if path.get_ref().is_absolute() {
        return Ok(path.into_inner());
    }
    Err(source.error(&path.span(), "expected an absolute path"))
}

/// Whether a cluster or gateway may have this name: it stands in the names of keys of stores.
fn may_name(name: &str) -> bool {
    let may = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=NAME_MAX).contains(&name.len()) && name.chars().all(may)
}

fn name_of(name: &Spanned<String>, source: &Source<'_>) -> Result<String> {
    if may_name(name.get_ref()) {
        return Ok(name.get_ref().clone());
    }
    let message =
        format!("{:?}; expected 1 to {NAME_MAX} letters, digits, `.`, `-` and `_`", name.get_ref());
    Err(source.error(&name.span(), message))
}

/// The machine's own name.
fn own_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    may_name(&name).then_some(name)
}

/// What a URL names, or why it names none.
fn server(url: &str) -> std::result::Result<Server, String> {
    const FORM: &str =
        "expected rediss://HOST[:PORT], redis://LOOPBACK[:PORT] or unix:///PATH of a socket";
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url:?}; {FORM}"))?;
    if rest.contains('@') {
        return Err("a user in the URL; expected `user` and `password_file`".to_owned());
    }
    if scheme == "unix" {
        let path = PathBuf::from(rest);
        return if path.is_absolute() {
            Ok(Server::Unix(path))
        } else {
            Err(format!("{url:?}; {FORM}"))
        };
    }
    let (host, port) = host_and_port(rest).ok_or_else(|| format!("{url:?}; {FORM}"))?;
    match scheme {
        "rediss" => Ok(Server::Tls(host, port)),
        "redis" if is_loopback(&host) => Ok(Server::Loopback(host, port)),
        "redis" => Err(format!(
            "{host} is another machine, and redis:// is not encrypted; expected rediss://"
        )),
        _ => Err(format!("{url:?}; {FORM}")),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A host, of IPv6 without its brackets, and its port.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let may = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    (!host.is_empty() && host.chars().all(may) && port != 0).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn judged(ha: &str) -> std::result::Result<Ha, String> {
        let text = format!(
            "[ha]\n{ha}\n[[interface]]\nname = \"eth0\"\n[[vip]]\naddress = \"198.51.100.10:443\"\n\
             [[vip.backend]]\naddress = \"10.0.0.1:443\"\n"
        );
        let config = Config::parse(Path::new("steer.toml"), &text);
        config.map(|config| config.ha.unwrap()).map_err(|error| error.to_string())
    }

    const KEY: &str = "key_file = \"/etc/steer/ha.key\"\nname = \"gw1\"\n";

    #[test]
    fn stores_are_asked_by_tls_or_on_this_machine() {
        let url = |url: &str| judged(&format!("{KEY}servers = [\"{url}\"]")).map(|ha| ha.servers);
        for (given, expected) in [
            ("rediss://store.example.com", Server::Tls("store.example.com".to_owned(), 6379)),
            ("rediss://[2001:db8::1]:7000", Server::Tls("2001:db8::1".to_owned(), 7000)),
            ("redis://127.0.0.1:7000", Server::Loopback("127.0.0.1".to_owned(), 7000)),
            ("redis://[::1]", Server::Loopback("::1".to_owned(), 6379)),
            ("unix:///run/redis.sock", Server::Unix("/run/redis.sock".into())),
        ] {
            assert_eq!(url(given), Ok(vec![expected]), "{given}");
        }
        for (given, expected) in [
            ("redis://10.0.0.5:6379", "10.0.0.5 is another machine, and redis:// is not encrypted"),
            ("redis://store", "store is another machine"),
            ("rediss://me:secret@store", "a user in the URL; expected `user` and `password_file`"),
            ("store:6379", "expected rediss://HOST[:PORT]"),
            ("http://store", "expected rediss://HOST[:PORT]"),
            ("rediss://store:0", "expected rediss://HOST[:PORT]"),
            ("rediss://store/1", "expected rediss://HOST[:PORT]"),
            ("unix://run/redis.sock", "expected rediss://HOST[:PORT]"),
        ] {
            let told = url(given).unwrap_err();
            assert!(
                told.contains(expected) && told.starts_with("steer.toml:4: ha.servers: "),
                "{told}"
            );
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_at_its_place() {
        let servers = "servers = [\"rediss://a\"]\n";
        let local = "servers = [\"redis://127.0.0.1\"]\n";
        for (text, expected) in [
            (format!("{servers}name = \"x\""), "key_file"),
            (format!("{KEY}servers = []"), ":4: ha.servers: 0 stores; expected 1 to 8"),
            (format!("{KEY}servers = [\"rediss://a\", \"rediss://a:6379\"]"), "stands here twice"),
            (
                format!("{KEY}{servers}cluster = \"a b\""),
                ":5: ha.cluster: \"a b\"; expected 1 to 64",
            ),
            (format!("{KEY}{servers}key = \"/k\""), ":5: ha.key: expected both `certificate` and"),
            (format!("{KEY}{servers}ca = \"ca.pem\""), ":5: ha.ca: expected an absolute path"),
            (
                format!("{KEY}{local}ca = \"/ca.pem\""),
                ":5: ha.ca: says nothing of stores without TLS",
            ),
            (format!("{KEY}{servers}user = \"steer\""), ":5: ha.user: expected `password_file`"),
            (format!("{KEY}{servers}server = 1"), "server"),
        ] {
            let told = judged(&text).unwrap_err();
            assert!(told.contains(expected), "{text}: {told}");
        }
        let ha = judged(&format!("{KEY}{servers}")).unwrap();
        assert_eq!((ha.cluster.as_str(), ha.name.as_str()), ("steer", "gw1"));
    }
}
