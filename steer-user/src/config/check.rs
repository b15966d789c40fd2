//! What a file may not say: each rule refuses by name, at the place of the value.

mod bridges;
mod pools;

use std::{
    collections::HashSet,
    net::SocketAddr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::Spanned;

use super::{Config, ConfigError, Interface, PIN_DIR, SOCKET, STATE_FILE, error::Source, ha, raw};

/// By then clients have repeated what was on its way when the other gateway failed, and idle ones
/// have spoken again or wait for their own timeouts.
const TAKEOVER_MAX: Duration = Duration::from_secs(3600);
/// Longest path of a UNIX socket, bytes (`sun_path` of unix(7) without the final zero).
const SOCKET_PATH_MAX: usize = 107;
/// Longest interface name, bytes (IFNAMSIZ without the final zero).
const INTERFACE_NAME_MAX: usize = 15;

type Result<T> = std::result::Result<T, ConfigError>;

/// Turns a file into a configuration. Parts that do not depend on each other are all judged, for
/// all of their errors to be noted; `None` where there are any.
pub(super) fn check(raw: raw::File, source: &Source<'_>) -> Option<Config> {
    let routed = raw.bridge.is_empty() || !raw.vip.is_empty() || raw.pool.iter().any(is_routed);
    let none = raw.interface.is_empty() && routed;
    let interfaces = interfaces(raw.interface, source);
    let bridges = source.note(bridges::bridges(&raw.bridge, &interfaces, source));
    source.note(bridges::refuse_unused(&raw.bridge, &raw.pool, source));
    if none {
        let why = "no [[interface]]; expected at least one, with `name`";
        source.note::<()>(Err(source.whole(why)));
    }
    let pin_dir = source.note(path(raw.pin_dir, PIN_DIR, source));
    let socket = source.note(socket_path(raw.socket, source));
    let state_file = source.note(state_file(raw.state_file, pin_dir.as_deref(), source));
    let metrics = source.note(raw.metrics.map(|at| metrics(&at, source)).transpose());
    let takeover = raw.takeover.map(|takeover| takeover_time(&takeover.time, source)).transpose();
    let takeover = source.note(takeover);
    let ha = source.note(raw.ha.map(|ha| ha::check(ha, source)).transpose());
    // What pools may say of VLANs follows from the bridges.
    let bridges = bridges?;
    let pools = pools::pools(raw.vip, raw.pool, &bridges, source)?;
    Some(Config {
        file: source.file.to_owned(),
        pin_dir: pin_dir?,
        socket: socket?,
        state_file: state_file?,
        metrics: metrics?,
        sizes: raw.sizes,
        takeover: takeover?,
        ha: ha?,
        interfaces,
        pools,
        bridges,
    })
}

/// Whether a pool's packets come by other interfaces than the ports of a bridge.
fn is_routed(pool: &Spanned<raw::Pool>) -> bool {
    let shape = pool.get_ref().shape.as_ref();
    shape.is_none_or(|shape| *shape.get_ref() != raw::Shape::Bridge)
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

/// Another gateway than the default one has a file of its own, or none.
fn state_file(
    said: Option<Spanned<PathBuf>>,
    pin_dir: Option<&Path>,
    source: &Source<'_>,
) -> Result<Option<PathBuf>> {
    let Some(said) = said else {
        return Ok((pin_dir == Some(Path::new(PIN_DIR))).then(|| STATE_FILE.into()));
    };
    let path = said.get_ref();
    let is_file = path.is_absolute()
        && path.file_name().is_some()
        && !path.as_os_str().as_bytes().ends_with(b"/");
    if path == Path::new("off") {
        Ok(None)
    } else if is_file {
        Ok(Some(said.into_inner()))
    } else {
        Err(source.error(&said.span(), "expected the absolute path of a file, or \"off\""))
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

/// The interfaces that may stand there.
fn interfaces(raw: Vec<raw::Interface>, source: &Source<'_>) -> Vec<Interface> {
    let mut seen = HashSet::new();
    let judged = raw.into_iter().filter_map(|interface| {
        source.note(refuse_no_name(&interface.name, source))?;
        let name = interface.name.get_ref();
        if !seen.insert(name.clone()) {
            let message = format!("`{name}` stands here twice; expected each interface once");
            source.note::<()>(Err(source.error(&interface.name.span(), message)))?;
        }
        Some(Interface { name: interface.name.into_inner(), hook: interface.hook })
    });
    judged.collect()
}

fn refuse_no_name(name: &Spanned<String>, source: &Source<'_>) -> Result<()> {
    if may_name_an_interface(name.get_ref()) {
        return Ok(());
    }
    let expected = "expected 1 to 15 bytes without `/`, `:` and white space, not `.` or `..`";
    let message = format!("{:?} is no interface name; {expected}", name.get_ref());
    Err(source.error(&name.span(), message))
}

/// As the kernel judges (`dev_valid_name` in net/core/dev.c).
fn may_name_an_interface(name: &str) -> bool {
    (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name
            .contains(|c: char| matches!(c, '/' | ':') || c.is_ascii_whitespace() || c == '\u{b}')
}
