//! What a file may not say: each rule refuses by name, at the place of the value.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use steer_common::shared::{MAX_BACKENDS, MAX_VIPS};
use toml::Spanned;

use super::{
    Backend, Config, ConfigError, Health, Interface, KeyName, PIN_DIR, SOCKET, Vip,
    error::Source,
    key_name,
    raw::{self, Spanned0},
};
use crate::address::unusable;

/// Sessions last as long as the usual server cache keeps them.
const SESSION_TIMEOUT: Duration = Duration::from_secs(600);
/// Idle flows last as long as TCP keepalive needs to find out (RFC 5382 REQ-5: not less than 2 h 4
/// min).
const FLOW_TIMEOUT: Duration = Duration::from_secs(2 * 3600 + 11 * 60);
/// Learned key names outlast the usual lifetime of a key.
const KEY_NAME_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// By then clients have repeated what was on its way when the other gateway failed, and idle ones
/// have spoken again or wait for their own timeouts.
const TAKEOVER_MAX: Duration = Duration::from_secs(3600);
/// Longest path of a UNIX socket, bytes (`sun_path` of unix(7) without the final zero).
const SOCKET_PATH_MAX: usize = 107;
/// Longest interface name, bytes (IFNAMSIZ without the final zero).
const INTERFACE_NAME_MAX: usize = 15;

type Result<T> = std::result::Result<T, ConfigError>;

/// Turns a file into a configuration.
pub(super) fn check(raw: raw::File, source: &Source<'_>) -> Result<Config> {
    Ok(Config {
        file: source.file.to_owned(),
        pin_dir: path(raw.pin_dir, PIN_DIR, source)?,
        socket: socket_path(raw.socket, source)?,
        metrics: raw.metrics.map(|at| metrics(&at, source)).transpose()?,
        sizes: raw.sizes,
        takeover: raw.takeover.map(|takeover| takeover_time(&takeover.time, source)).transpose()?,
        interfaces: interfaces(raw.interface, source)?,
        vips: vips(raw.vip, source)?,
    })
}

fn takeover_time(time: &Spanned<raw::Time>, source: &Source<'_>) -> Result<Duration> {
    let value = time.get_ref().0;
    let fits =
        value >= Duration::from_secs(1) && value <= TAKEOVER_MAX && value.subsec_nanos() == 0;
    let message =
        format!("{}; expected whole seconds, 1s to 1h", humantime::format_duration(value));
    if fits { Ok(value) } else { Err(source.error(&time.span(), message)) }
}

fn path(path: Option<Spanned<PathBuf>>, default: &str, source: &Source<'_>) -> Result<PathBuf> {
    match path {
        None => Ok(default.into()),
        Some(path) if Path::is_absolute(path.get_ref()) => Ok(path.into_inner()),
        Some(path) => Err(source.error(&path.span(), "expected an absolute path")),
    }
}

fn socket_path(raw: Option<Spanned<PathBuf>>, source: &Source<'_>) -> Result<PathBuf> {
    let span = raw.as_ref().map(Spanned::span);
    let path = path(raw, SOCKET, source)?;
    let length = path.as_os_str().len();
    match span.filter(|_| length > SOCKET_PATH_MAX) {
        Some(span) => {
            Err(source.error(&span, format!("{length} bytes; expected at most {SOCKET_PATH_MAX}")))
        }
        None => Ok(path),
    }
}

/// The agent gives up the right to listen at ports below 1024 (CAP_NET_BIND_SERVICE) before it
/// listens.
fn metrics(at: &Spanned<raw::Socket>, source: &Source<'_>) -> Result<SocketAddr> {
    let socket = at.get_ref().0;
    if socket.port() >= 1024 {
        return Ok(socket);
    }
    let message = format!(
        "port {}; expected one from 1024 on: the agent keeps no right to listen below",
        socket.port()
    );
    Err(source.error(&at.span(), message))
}

fn interfaces(raw: Vec<raw::Interface>, source: &Source<'_>) -> Result<Vec<Interface>> {
    if raw.is_empty() {
        return Err(source.whole("no [[interface]]; expected at least one, with `name`"));
    }
    let mut seen = HashSet::new();
    for interface in &raw {
        let (name, span) = (interface.name.get_ref(), interface.name.span());
        if !may_name_an_interface(name) {
            let expected =
                "expected 1 to 15 bytes without `/`, `:` and white space, not `.` or `..`";
            return Err(source.error(&span, format!("{name:?} is no interface name; {expected}")));
        }
        if !seen.insert(name.clone()) {
            return Err(source.error(
                &span,
                format!("`{name}` stands here twice; expected each interface once"),
            ));
        }
    }
    Ok(raw
        .into_iter()
        .map(|raw| Interface { name: raw.name.into_inner(), hook: raw.hook })
        .collect())
}

/// As the kernel judges (`dev_valid_name` in net/core/dev.c).
fn may_name_an_interface(name: &str) -> bool {
    (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name
            .contains(|c: char| matches!(c, '/' | ':') || c.is_ascii_whitespace() || c == '\u{b}')
}

fn vips(raw: Vec<Spanned<raw::Vip>>, source: &Source<'_>) -> Result<Vec<Vip>> {
    if raw.is_empty() {
        return Err(
            source.whole("no [[vip]]; expected at least one, with `address` and [[vip.backend]]")
        );
    }
    if raw.len() > MAX_VIPS as usize {
        return Err(source.whole(format!("{} VIPs; expected at most {MAX_VIPS}", raw.len())));
    }
    let mut taken = Taken { source, by: HashMap::new() };
    for vip in &raw {
        taken.take(&vip.get_ref().address, "a VIP".into())?;
    }
    let vips =
        raw.into_iter().map(|raw| vip(raw, &mut taken, source)).collect::<Result<Vec<_>>>()?;
    let backends = vips.iter().map(|vip| vip.backends.len()).sum::<usize>();
    if backends > MAX_BACKENDS as usize {
        return Err(source.whole(format!("{backends} backends; expected at most {MAX_BACKENDS}")));
    }
    Ok(vips)
}

/// Who claimed which address: every one belongs to one VIP or one pool.
struct Taken<'a> {
    source: &'a Source<'a>,
    by: HashMap<SocketAddr, String>,
}

impl Taken<'_> {
    fn take(&mut self, address: &Spanned<raw::Socket>, owner: String) -> Result<SocketAddr> {
        let socket = usable(address, self.source)?;
        match self.by.insert(socket, owner) {
            None => Ok(socket),
            Some(other) => {
                let message = format!(
                    "{socket} is already {other}; expected an address and port of one VIP only"
                );
                Err(self.source.error(&address.span(), message))
            }
        }
    }
}

/// An address that can stand in a packet to or from us.
fn usable(address: &Spanned<raw::Socket>, source: &Source<'_>) -> Result<SocketAddr> {
    let socket = address.get_ref().0;
    match unusable(socket) {
        Some(why) => Err(source.error(&address.span(), format!("{socket}: {why}"))),
        None => Ok(socket),
    }
}

fn vip(raw: Spanned<raw::Vip>, taken: &mut Taken<'_>, source: &Source<'_>) -> Result<Vip> {
    let raw = raw.into_inner();
    let address = raw.address.get_ref().0;
    if raw.backend.is_empty() {
        return Err(source.error(
            &raw.address.span(),
            format!("{address} has no [[vip.backend]]; expected at least one"),
        ));
    }
    let (ticket_key_name, key_names) = key_name::names(&raw, source)?;
    let named = raw.backend.iter().zip(key_names);
    let backends =
        named.map(|(raw, names)| backend(raw, names, address, taken)).collect::<Result<_>>()?;
    Ok(Vip {
        address,
        mode: raw.mode,
        session_timeout: seconds(raw.session_timeout, SESSION_TIMEOUT, 1, source)?,
        session_limit: seconds(raw.session_limit, Duration::ZERO, 0, source)?,
        flow_timeout: seconds(raw.flow_timeout, FLOW_TIMEOUT, 1, source)?,
        ticket_key_name,
        key_name_timeout: seconds(raw.key_name_timeout, KEY_NAME_TIMEOUT, 1, source)?,
        learn_without_certificate: raw.learn_without_certificate,
        sessions_per_source: raw.sessions_per_source,
        fallback: raw.fallback,
        owner_tries: raw.owner_tries,
        swallow: raw.swallow,
        assign: raw.assign,
        return_path: raw.return_path,
        health: health(raw.health, source)?,
        backends,
    })
}

/// A duration that the maps can hold: whole seconds in 32 bits.
fn seconds(
    time: Option<Spanned<raw::Time>>,
    default: Duration,
    least: u64,
    source: &Source<'_>,
) -> Result<Duration> {
    let Some(time) = time else { return Ok(default) };
    let value = time.get_ref().0;
    let fits =
        (least..=u64::from(u32::MAX)).contains(&value.as_secs()) && value.subsec_nanos() == 0;
    let (told, most) = (humantime::format_duration(value), u32::MAX);
    let message = format!("{told}; expected whole seconds, {least}s to {most}s");
    if fits { Ok(value) } else { Err(source.error(&time.span(), message)) }
}

/// No backend is checked more seldom.
const DAY: Duration = Duration::from_secs(24 * 3600);

fn health(Spanned0(health, span): Spanned0<Health>, source: &Source<'_>) -> Result<Health> {
    let Health { interval, timeout, .. } = health;
    let refuse = |message: &str| Err(source.error(&span, message));
    match () {
        () if interval.is_zero() || timeout.is_zero() => {
            refuse("interval or timeout is 0; expected more")
        }
        () if interval > DAY || timeout > DAY => refuse("interval or timeout is longer than a day"),
        () => Ok(health),
    }
}

fn backend(
    raw: &raw::Backend,
    key_names: Vec<KeyName>,
    vip: SocketAddr,
    taken: &mut Taken<'_>,
) -> Result<Backend> {
    let address = taken.take(&raw.address, format!("a backend of {vip}"))?;
    if address.is_ipv4() != vip.is_ipv4() {
        let message = format!(
            "{address} behind {vip}: families do not mix; expected an address of the VIP's family"
        );
        return Err(taken.source.error(&raw.address.span(), message));
    }
    Ok(Backend { address, weight: raw.weight, key_names })
}
