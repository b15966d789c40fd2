//! `[[vip]]` and `[[pool]]`.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use steer_common::shared::{MAX_BACKENDS, MAX_ENTRANCES, MAX_EXEMPT, MAX_VIPS};
use toml::Spanned;

use super::Result;
use crate::{
    address::unusable,
    config::{
        Backend, Bridge, Health, Inline, Mode, Pool, Prefix, Probes, Shape, Vip,
        error::Source,
        key_name,
        raw::{self, Socket},
    },
    service::PoolName,
};

/// Sessions last as long as the usual server cache keeps them.
const SESSION_TIMEOUT: Duration = Duration::from_secs(600);
/// Idle flows last as long as TCP keepalive needs to find out (RFC 5382 REQ-5: not less than 2 h 4
/// min).
const FLOW_TIMEOUT: Duration = Duration::from_secs(2 * 3600 + 11 * 60);
/// Learned key names outlast the usual lifetime of a key.
const KEY_NAME_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// No backend is checked more seldom.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The pools of the file: those of VIPs, then the others. Errors are noted, of every pool, and of
/// every backend.
pub(super) fn pools(
    vips: Vec<Spanned<raw::Pool>>,
    pools: Vec<Spanned<raw::Pool>>,
    bridges: &[Bridge],
    source: &Source<'_>,
) -> Option<Vec<Pool>> {
    source.note(refuse_number(&vips, &pools, source))?;
    source.note(refuse_twice(&pools, source));
    let mut taken = Taken { source, bridges, by: HashMap::new() };
    for address in vips.iter().filter_map(|raw| raw.get_ref().address.as_ref()) {
        source.note(taken.take(address, "a VIP".into()));
    }
    let (mut entrances, vips): (Vec<_>, Vec<_>) =
        vips.into_iter().partition(|raw| raw.get_ref().pool.is_some());
    let n = vips.len() + pools.len();
    let vips = vips.into_iter().filter_map(|raw| source.note(vip_shape(raw, source)));
    let vips = vips.collect::<Vec<_>>();
    let shape = |raw: Spanned<raw::Pool>| match raw.get_ref().shape.as_ref().map(Spanned::get_ref) {
        None | Some(raw::Shape::Gateway) => shared_shape(raw, &mut entrances, source),
        Some(raw::Shape::Inline | raw::Shape::Bridge) => inline_shape(raw, source),
    };
    let pools = pools.into_iter().map(shape).filter_map(|shape| source.note(shape));
    let pools = pools.collect::<Vec<_>>();
    let whole = vips.len() + pools.len() == n;
    if whole {
        source.note(refuse_unknown(&entrances, &pools, source));
    }
    let all = vips.into_iter().chain(pools);
    let all = all.filter_map(|(raw, shape)| pool(raw, shape, &mut taken)).collect::<Vec<_>>();
    if all.len() < n || source.has_errors() {
        return None;
    }
    source.note(refuse_many(&all, source)).map(|()| all)
}

/// Refuses a file that serves nothing, or more than the maps have room for.
fn refuse_number(
    vips: &[Spanned<raw::Pool>],
    pools: &[Spanned<raw::Pool>],
    source: &Source<'_>,
) -> Result<()> {
    let own = vips.iter().filter(|raw| raw.get_ref().pool.is_none());
    match own.count() + pools.len() {
        0 => Err(source.whole(
            "no [[vip]] and no [[pool]]; expected at least one, as [[vip]] with `address` and \
             [[vip.backend]]",
        )),
        n if n > MAX_VIPS as usize => {
            Err(source.whole(format!("{n} VIPs and pools; expected at most {MAX_VIPS}")))
        }
        _ => Ok(()),
    }
}

/// What the maps have no room for.
fn refuse_many(pools: &[Pool], source: &Source<'_>) -> Result<()> {
    let backends = pools.iter().map(|pool| pool.backends.len()).sum::<usize>();
    if backends > MAX_BACKENDS as usize {
        return Err(source.whole(format!("{backends} backends; expected at most {MAX_BACKENDS}")));
    }
    let also = pools.iter().filter_map(Pool::vip).map(|vip| vip.also.len()).sum::<usize>();
    if also >= MAX_ENTRANCES as usize {
        let most = MAX_ENTRANCES - 1;
        let message = format!(
            "{also} VIPs beside the first of their pools; expected at most {most} in all pools"
        );
        return Err(source.whole(message));
    }
    let exempt = pools.iter().filter_map(Pool::inline).map(|inline| inline.exempt.len());
    let exempt = exempt.sum::<usize>();
    if exempt > MAX_EXEMPT as usize {
        return Err(source.whole(format!("{exempt} in exempt; expected at most {MAX_EXEMPT}")));
    }
    Ok(())
}

/// Who claimed which address: every one belongs to one VIP or one pool.
struct Taken<'a> {
    source: &'a Source<'a>,
    bridges: &'a [Bridge],
    by: HashMap<SocketAddr, String>,
}

impl Taken<'_> {
    fn take(&mut self, address: &Spanned<Socket>, owner: String) -> Result<SocketAddr> {
        let socket = usable(address, self.source)?;
        match self.by.insert(socket, owner) {
            None => Ok(socket),
            Some(other) => {
                let message = format!(
                    "{socket} is already {other}; expected an address and port of one VIP or pool \
                     only"
                );
                Err(self.source.error(&address.span(), message))
            }
        }
    }
}

/// An address that can stand in a packet to or from us.
fn usable(address: &Spanned<Socket>, source: &Source<'_>) -> Result<SocketAddr> {
    let socket = address.get_ref().0;
    match unusable(socket) {
        Some(why) => Err(source.error(&address.span(), format!("{socket}: {why}"))),
        None => Ok(socket),
    }
}

/// What is said of `[[vip]]` alone.
fn vip_shape(raw: Spanned<raw::Pool>, source: &Source<'_>) -> Result<(raw::Pool, Shape)> {
    let span = raw.span();
    let raw = raw.into_inner();
    let why = "of [[pool]] only; a VIP has an address that clients dial";
    source.refuse("name", &raw.name, why)?;
    source.refuse("shape", &raw.shape, why)?;
    let why = "of [[pool]] only; expected no `exempt`: all that comes to a VIP goes through steer";
    source.refuse("exempt", &raw.exempt, why)?;
    let Some(address) = &raw.address else {
        return Err(source.error(&span, "missing key; expected `address`"));
    };
    if raw.backend.is_empty() {
        let message = format!(
            "{} has no [[vip.backend]]; expected at least one, or `pool` with the name of a \
             [[pool]] that has them",
            address.get_ref().0
        );
        return Err(source.error(&address.span(), message));
    }
    let shape = Shape::Vip(vip(&raw, address.get_ref().0, Vec::new(), None));
    Ok((raw, shape))
}

/// What VIPs have beside their pool's settings.
fn vip(raw: &raw::Pool, address: SocketAddr, also: Vec<SocketAddr>, pool: Option<PoolName>) -> Vip {
    Vip {
        address,
        also,
        pool,
        fallback: raw.fallback.as_ref().map(|by| *by.get_ref()).unwrap_or_default(),
        assign: raw.assign.as_ref().is_some_and(|assign| *assign.get_ref()),
        return_path: raw.return_path.as_ref().map(|path| *path.get_ref()).unwrap_or_default(),
        on_all_down: raw.on_all_down.as_ref().map(|then| *then.get_ref()).unwrap_or_default(),
    }
}

/// What is said of a `[[pool]]` that VIPs share; they are taken out of `entrances`. All are of one
/// family, for so are the backends.
fn shared_shape(
    raw: Spanned<raw::Pool>,
    entrances: &mut Vec<Spanned<raw::Pool>>,
    source: &Source<'_>,
) -> Result<(raw::Pool, Shape)> {
    let span = raw.span();
    let raw = raw.into_inner();
    let why = "of [[vip]] only: VIPs name the pool";
    source.refuse("address", &raw.address, why)?;
    source.refuse("pool", &raw.pool, why)?;
    let why = "of an inline pool only; expected no `exempt`: all that comes to a VIP goes through \
               steer";
    source.refuse("exempt", &raw.exempt, why)?;
    let (name, parsed) = name(&raw, &span, source)?;
    if raw.backend.is_empty() {
        let message = format!("{parsed} has no [[pool.backend]]; expected at least one");
        return Err(source.error(&name.span(), message));
    }
    let is_its = |vip: &mut Spanned<raw::Pool>| {
        vip.get_ref().pool.as_ref().is_some_and(|pool| pool.get_ref() == name.get_ref())
    };
    let its = entrances.extract_if(.., is_its).map(|vip| entrance(vip, source));
    let addresses = its.collect::<Result<Vec<_>>>()?;
    let Some((first, also)) = addresses.split_first() else {
        let message = format!(
            "no [[vip]] has `pool = \"{parsed}\"`; expected one, or `shape = \"inline\"` or \
             `shape = \"bridge\"` for servers that a balancer in front dials"
        );
        return Err(source.error(&name.span(), message));
    };
    let (first, also) = (first.get_ref().0, also);
    if let Some(other) = also.iter().find(|at| at.get_ref().0.is_ipv4() != first.is_ipv4()) {
        let at = other.get_ref().0;
        let message =
            format!("{at} beside {first}: families do not mix; expected one family in a pool");
        return Err(source.error(&other.span(), message));
    }
    let also = also.iter().map(|at| at.get_ref().0).collect();
    let shape = vip(&raw, first, also, Some(parsed));
    Ok((raw, Shape::Vip(shape)))
}

/// The address of a `[[vip]]` that names a pool, which has all else.
fn entrance(raw: Spanned<raw::Pool>, source: &Source<'_>) -> Result<Spanned<Socket>> {
    let span = raw.span();
    let raw = raw.into_inner();
    let why = "of the [[pool]] that this VIP names; expected it there";
    source.refuse("name", &raw.name, why)?;
    source.refuse("shape", &raw.shape, why)?;
    source.refuse("session_timeout", &raw.session_timeout, why)?;
    source.refuse("session_limit", &raw.session_limit, why)?;
    source.refuse("flow_timeout", &raw.flow_timeout, why)?;
    source.refuse("key_name_timeout", &raw.key_name_timeout, why)?;
    source.refuse("fallback", &raw.fallback, why)?;
    source.refuse("swallow", &raw.swallow, why)?;
    source.refuse("assign", &raw.assign, why)?;
    source.refuse("return_path", &raw.return_path, why)?;
    source.refuse("exempt", &raw.exempt, why)?;
    source.refuse("on_all_down", &raw.on_all_down, why)?;
    source.refuse("health", &raw.health, why)?;
    let more = raw.says_more();
    let Some(address) = raw.address else {
        return Err(source.error(&span, "missing key; expected `address`"));
    };
    if more {
        let message = "it names a `pool`; expected no key beside but `address`: all else is of \
                       the [[pool]]";
        return Err(source.error(&address.span(), message));
    }
    Ok(address)
}

/// Refuses VIPs whose pool is none that VIPs share.
fn refuse_unknown(
    entrances: &[Spanned<raw::Pool>],
    pools: &[(raw::Pool, Shape)],
    source: &Source<'_>,
) -> Result<()> {
    let Some(pool) = entrances.iter().find_map(|raw| raw.get_ref().pool.as_ref()) else {
        return Ok(());
    };
    let name = pool.get_ref();
    let is_it = |(raw, _): &&(raw::Pool, Shape)| {
        raw.name.as_ref().is_some_and(|other| other.get_ref() == name)
    };
    let message = match pools.iter().find(is_it) {
        Some(_) => format!(
            "`{name}` has a `shape` in which no VIP leads to it; expected a [[pool]] without one"
        ),
        None => format!("there is no [[pool]] named `{name}`"),
    };
    Err(source.error(&pool.span(), message))
}

/// The name of a `[[pool]]`.
fn name<'a>(
    raw: &'a raw::Pool,
    span: &std::ops::Range<usize>,
    source: &Source<'_>,
) -> Result<(&'a Spanned<String>, PoolName)> {
    let Some(name) = &raw.name else {
        return Err(source.error(span, "missing key; expected `name`"));
    };
    let parsed = name.get_ref().parse::<PoolName>();
    let parsed = parsed.map_err(|why| {
        source.error(&name.span(), format!("{:?} is no name of a pool: {why}", name.get_ref()))
    })?;
    Ok((name, parsed))
}

/// What is said of a `[[pool]]` whose backends are dialled themselves, in either shape.
fn inline_shape(raw: Spanned<raw::Pool>, source: &Source<'_>) -> Result<(raw::Pool, Shape)> {
    let span = raw.span();
    let raw = raw.into_inner();
    let no_vip = "of [[vip]] only: the balancer in front has the addresses that clients dial";
    source.refuse("address", &raw.address, no_vip)?;
    source.refuse("pool", &raw.pool, no_vip)?;
    source.refuse("assign", &raw.assign, no_vip)?;
    let chosen = "of [[vip]] only: the balancer in front chooses the first backend";
    source.refuse("fallback", &raw.fallback, chosen)?;
    source.refuse("on_all_down", &raw.on_all_down, chosen)?;
    let back = "of [[vip]] only: answers take the way that they take without steer";
    source.refuse("return_path", &raw.return_path, back)?;
    for backend in &raw.backend {
        source.refuse("weight", &backend.weight, chosen)?;
        source.refuse("backup", &backend.backup, chosen)?;
    }
    let (name, parsed) = name(&raw, &span, source)?;
    let bridged = raw.shape.as_ref().is_some_and(|shape| *shape.get_ref() == raw::Shape::Bridge);
    if bridged {
        let why = "not of `shape = \"bridge\"`: the bridge has the first packets go on by itself";
        source.refuse("swallow", &raw.swallow, why)?;
    }
    if raw.backend.is_empty() {
        let message = format!("{parsed} has no [[pool.backend]]; expected at least one");
        return Err(source.error(&name.span(), message));
    }
    let exempt = exempt(raw.exempt.as_ref(), source)?;
    Ok((raw, Shape::Inline(Inline { name: parsed, bridged, exempt })))
}

/// The prefixes of clients that are left alone, each once, of either family: one list may serve
/// several pools.
fn exempt(raw: Option<&Spanned<Vec<Spanned<Prefix>>>>, source: &Source<'_>) -> Result<Vec<Prefix>> {
    let mut exempt = Vec::new();
    for prefix in raw.iter().flat_map(|raw| raw.get_ref()) {
        if exempt.contains(prefix.get_ref()) {
            let message = format!("{} stands here twice; expected each once", prefix.get_ref());
            return Err(source.error(&prefix.span(), message));
        }
        exempt.push(*prefix.get_ref());
    }
    Ok(exempt)
}

fn refuse_twice(pools: &[Spanned<raw::Pool>], source: &Source<'_>) -> Result<()> {
    let mut seen = HashSet::new();
    for name in pools.iter().filter_map(|raw| raw.get_ref().name.as_ref()) {
        if !seen.insert(name.get_ref()) {
            let message =
                format!("`{}` stands here twice; expected each pool once", name.get_ref());
            return Err(source.error(&name.span(), message));
        }
    }
    Ok(())
}

fn pool(raw: raw::Pool, shape: Shape, taken: &mut Taken<'_>) -> Option<Pool> {
    let source = taken.source;
    let names = source.note(key_name::names(&raw, source));
    source.note(refuse_backups_alone(&raw, source));
    let of = shape.service();
    let first = raw.backend.first().map(|first| first.address.get_ref().0);
    let beside = of.address().or(first);
    let judged = raw.backend.iter().map(|raw| backend(raw, &shape, beside, taken));
    let backends = judged.map(|judged| source.note(judged)).collect::<Vec<_>>();
    let (mode, health) = match &shape {
        Shape::Vip(_) => (Mode::Steer, Health::Probes(Probes::default())),
        Shape::Inline(_) => (Mode::Observe, Health::Seen),
    };
    let time = |time, default, least| source.note(seconds(time, default, least, source));
    let session_timeout = time(raw.session_timeout, SESSION_TIMEOUT, 1);
    let session_limit = time(raw.session_limit, Duration::ZERO, 0);
    let flow_timeout = time(raw.flow_timeout, FLOW_TIMEOUT, 1);
    let key_name_timeout = time(raw.key_name_timeout, KEY_NAME_TIMEOUT, 1);
    let health = raw.health.map_or(Ok(health), |raw| self::health(&raw, &shape, source));
    let health = source.note(health);
    let (ticket_key_name, key_names) = names?;
    let named = backends.into_iter().zip(key_names);
    let backends = named.map(|(backend, key_names)| Some(Backend { key_names, ..backend? }));
    Some(Pool {
        mode: raw.mode.unwrap_or(mode),
        session_timeout: session_timeout?,
        session_limit: session_limit?,
        flow_timeout: flow_timeout?,
        ticket_key_name,
        key_name_timeout: key_name_timeout?,
        learn_without_certificate: raw.learn_without_certificate,
        sessions_per_source: raw.sessions_per_source,
        owner_tries: raw.owner_tries,
        swallow: raw.swallow.is_some_and(|swallow| swallow.into_inner()),
        health: health?,
        backends: backends.collect::<Option<_>>()?,
        shape,
    })
}

/// Refuses a pool of backups: there is nobody whom they stand behind.
fn refuse_backups_alone(raw: &raw::Pool, source: &Source<'_>) -> Result<()> {
    let is_one = |backend: &&raw::Backend| backend.backup.as_ref().is_some_and(|b| *b.get_ref());
    let n = raw.backend.iter().filter(is_one).count();
    let first = raw.backend.first().and_then(|backend| backend.backup.as_ref());
    match first.filter(|_| n == raw.backend.len()) {
        None => Ok(()),
        Some(backup) => Err(source.error(
            &backup.span(),
            "every backend is a backup; expected one without `backup`, which they stand behind",
        )),
    }
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

fn health(raw: &Spanned<raw::Health>, shape: &Shape, source: &Source<'_>) -> Result<Health> {
    let refuse = |message: &str| Err(source.error(&raw.span(), message));
    match (raw.get_ref().clone(), shape) {
        (raw::Health::Wrong(why), _) => refuse(&why),
        (raw::Health::Off, _) => Ok(Health::Off),
        (raw::Health::Seen, Shape::Inline(_)) => Ok(Health::Seen),
        (raw::Health::Probes(_), Shape::Inline(Inline { bridged: true, .. })) => refuse(
            "probes need an address of the gateway's own, and a bridge has none; expected \"seen\" \
             or \"off\"",
        ),
        (raw::Health::Seen, Shape::Vip(_)) => refuse(
            "\"seen\" is of [[pool]] only: behind a VIP one that is down gets no SYN any more, \
             whose answer would show that it is up; expected [vip.health] or \"off\"",
        ),
        (raw::Health::Probes(Probes { interval, timeout, .. }), _)
            if interval.is_zero() || timeout.is_zero() =>
        {
            refuse("interval or timeout is 0; expected more")
        }
        (raw::Health::Probes(Probes { interval, timeout, .. }), _)
            if interval > DAY || timeout > DAY =>
        {
            refuse("interval or timeout is longer than a day")
        }
        (raw::Health::Probes(probes), _) => Ok(Health::Probes(probes)),
    }
}

/// A backend, but for its key names. `beside` is an address of the pool's family.
fn backend(
    raw: &raw::Backend,
    shape: &Shape,
    beside: Option<SocketAddr>,
    taken: &mut Taken<'_>,
) -> Result<Backend> {
    let of = shape.service();
    let address = taken.take(&raw.address, format!("a backend of {of}"))?;
    if let Some(beside) = beside.filter(|beside| beside.is_ipv4() != address.is_ipv4()) {
        let message = format!(
            "{address} beside {beside}: families do not mix; expected one family in a pool"
        );
        return Err(taken.source.error(&raw.address.span(), message));
    }
    let weight = raw.weight.as_ref().map_or(1, |weight| weight.get_ref().0);
    let vlan = vlan(raw, shape, taken)?;
    let backup = raw.backup.as_ref().is_some_and(|backup| *backup.get_ref());
    Ok(Backend { address, weight, key_names: Vec::new(), vlan, backup })
}

/// The VLAN of a backend, 0 where nothing is said.
fn vlan(raw: &raw::Backend, shape: &Shape, taken: &Taken<'_>) -> Result<u16> {
    let Some(vlan) = &raw.vlan else { return Ok(0) };
    if !matches!(shape, Shape::Inline(Inline { bridged: true, .. })) {
        let why = "of pools with `shape = \"bridge\"` only: elsewhere frames with a tag are not looked at";
        taken.source.refuse("vlan", &raw.vlan, why)?;
    }
    let number = vlan.get_ref().0;
    if !taken.bridges.iter().any(|bridge| bridge.vlans.has(number)) {
        let message = format!("{number} is not in `vlans` of any [[bridge]]; expected one that is");
        return Err(taken.source.error(&vlan.span(), message));
    }
    Ok(number)
}
