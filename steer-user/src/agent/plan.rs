//! What a start would do, judged before anything is touched: which numbers VIPs and backends get,
//! whether all of them have a place, what the tables cost, and what would be lost.
//!
//! [`judge`] only reads. The start applies what it says; `steer config check` shows it.

mod changes;
mod named;
mod needs;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
};

use anyhow::{Result, bail};
pub(super) use named::{Named, purge};
use steer_common::{
    maps::{Kind, MAPS},
    shared::{
        BACKEND_DRAINING, BACKEND_PRESENT, Backend, Endpoint, LAYOUT_VERSION, MAX_BACKENDS,
        MAX_VIPS, Vip, backend_bit,
    },
};

use crate::{
    address::{endpoint, is_own},
    config::{Config, Pool, Sizes},
    control::refuse_file_in_place,
    plane::{self, Before, Memory, NotCarried, Old, PinDir, Plane},
    service::Service,
};

/// What a start would find, do and cost.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Nothing is pinned yet.
    pub fresh: bool,
    /// What the configuration says otherwise than the one before, as sentences; none of a first
    /// start.
    pub changes: Vec<String>,
    /// What the tables take.
    pub memory: Memory,
    /// What would be lost, as sentences: a start does it only with `--force`.
    pub destroys: Vec<String>,
    /// What the network must do for inline pools, as sentences.
    pub needs: Vec<String>,
    /// What deserves a look, as sentences.
    pub warnings: Vec<String>,
    pub(super) numbers: Numbers,
}

/// The numbers that a start gives.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Numbers {
    /// Of each VIP of the configuration, in its order.
    pub(super) vips: Vec<u16>,
    /// Of backends that have none yet.
    pub(super) backends: HashMap<Endpoint, u32>,
    /// Given to another VIP or backend than they belonged to: what tables say of them is to be
    /// forgotten first.
    pub(super) reused_vips: HashSet<u16>,
    /// As `reused_vips`.
    pub(super) reused_backends: HashSet<u16>,
}

/// Judges what a start with this configuration would do. Reads only; needs rights only where a
/// gateway is pinned.
///
/// # Errors
/// Where such a start would be refused, with or without `--force`.
pub fn judge(config: &Config, dir: &PinDir) -> Result<Judged> {
    dir.refuse_dots()?;
    let found = Found::read(dir)?;
    let mut destroys = Vec::new();
    let numbers = number(config, &found, &mut destroys)?;
    refuse_crowd(config, &found, &numbers)?;
    let (memory, mut rooms) = plane::room(dir, &config.sizes)?;
    refuse_cost(&memory)?;
    let not_carried = found.old.as_ref().map(Old::not_carried).transpose()?.unwrap_or_default();
    for lost in not_carried.iter().filter(|lost| lost.destroys) {
        destroys.push(format!("{} {} ({})", lost.n, lost.what, lost.then));
    }
    if let Some(old) = &found.old {
        rooms = old.rooms(&config.sizes)?;
    }
    for room in rooms {
        let entries = found.named.entries(room.name);
        if entries > u64::from(room.wanted) {
            let lost = entries - u64::from(room.wanted);
            destroys.push(format!(
                "{} of {entries} entries of the table {} ({})",
                lost,
                room.name,
                worth(room.name)
            ));
        }
    }
    refuse_vips_of_others(config, dir)?;
    Ok(Judged {
        fresh: !found.there,
        changes: [
            found.old.as_ref().map(|old| carried(old, &found)).into_iter().collect(),
            if found.there || found.old.is_some() {
                changes::changes(config, &found.before)
            } else {
                Vec::new()
            },
        ]
        .concat(),
        memory,
        destroys,
        needs: needs::needs(config),
        warnings: [
            not_carried.iter().filter(|lost| !lost.destroys).map(forgotten).collect(),
            raised_sizes(&config.sizes, plane::least_lru_entries()?),
            elsewhere(config, dir),
            own_backends(config),
            lonely(config),
            warnings(config, dir, &found),
        ]
        .concat(),
        numbers,
    })
}

impl Judged {
    /// Refuses a start that would destroy what it finds.
    pub(super) fn refuse_destruction(&self) -> Result<()> {
        if self.destroys.is_empty() {
            return Ok(());
        }
        bail!(
            "this start would destroy {}: nothing was changed; --force does it all the same",
            self.destroys.join(", ")
        )
    }
}

/// What a start finds.
struct Found {
    there: bool,
    /// The state of an older layout, where there is none of this one.
    old: Option<Old>,
    before: Before,
    named: Named,
}

impl Found {
    fn read(dir: &PinDir) -> Result<Self> {
        if !dir.map("configured").exists() {
            let Some(old) = Old::find(dir)? else {
                return Ok(Self {
                    there: false,
                    old: None,
                    before: Before::default(),
                    named: Named::default(),
                });
            };
            let before = old.pools()?;
            let named = Named::read(&old, &before)?;
            return Ok(Self { there: false, old: Some(old), before, named });
        }
        let plane = Plane::open(dir)?;
        // What a start that did not get through changed is put back before this one begins.
        let before = match Before::kept(dir)? {
            Some(before) => before,
            None => Before::read(&plane)?,
        };
        let named = Named::read(&plane, &before)?;
        Ok(Self { there: true, old: None, before, named })
    }

    /// Whether the configuration before said this of a backend: then leaving it out removes it.
    fn was_configured(&self, at: &Endpoint) -> bool {
        self.before.configured.iter().any(|(configured, _)| configured == at)
    }

    fn vip(&self, at: &Endpoint) -> Option<&Vip> {
        self.before.vips.iter().find(|(known, _)| known == at).map(|(_, vip)| vip)
    }
}

fn asked(config: &Config) -> impl Iterator<Item = Endpoint> + Clone {
    config.backends().map(|backend| endpoint(backend.address))
}

/// The VIP or pool of every backend of the configuration.
fn pools(config: &Config) -> HashMap<Endpoint, Endpoint> {
    let of = |pool: &Pool| {
        let at = pool.service().endpoint();
        pool.backends.iter().map(move |backend| (endpoint(backend.address), at)).collect::<Vec<_>>()
    };
    config.pools.iter().flat_map(of).collect()
}

/// What stands in the maps for every VIP and pool of the configuration.
fn served(config: &Config) -> impl Iterator<Item = Endpoint> + Clone {
    config.pools.iter().map(|pool| pool.service().endpoint())
}

/// Gives numbers to what has none: free ones first, then those of what the configuration leaves
/// out, if no connection uses them any more. Sessions alone that would be lost by that are
/// destroyed.
fn number(config: &Config, found: &Found, destroys: &mut Vec<String>) -> Result<Numbers> {
    let vips = number_vips(config, found)?;
    let backends = number_backends(config, found)?;
    let lost = vips.sessions + backends.sessions;
    if lost > 0 {
        destroys.push(format!(
            "{lost} sessions of VIPs and backends that the configuration leaves out, whose numbers others need"
        ));
    }
    let known = |at: &Endpoint| found.vip(at).map(|vip| vip.id);
    let mut fresh = vips.given.iter().map(|number| *number as u16);
    Ok(Numbers {
        vips: served(config).filter_map(|at| known(&at).or_else(|| fresh.next())).collect(),
        backends: new_backends(config, found).into_iter().zip(backends.given).collect(),
        reused_vips: vips.reused.iter().map(|number| *number as u16).collect(),
        reused_backends: backends.reused.iter().map(|number| *number as u16).collect(),
    })
}

/// Numbers that were given.
#[derive(Default, Debug, PartialEq)]
struct Given {
    given: Vec<u32>,
    reused: Vec<u32>,
    /// Sessions that name one of the reused.
    sessions: u64,
}

/// A number that may be given away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Candidate {
    /// Sessions that name it, stale ones left out.
    sessions: u64,
    /// It belongs to something that goes.
    owned: bool,
    /// Something names it, be it stale.
    named: bool,
    number: u32,
}

impl Candidate {
    /// What giving it away costs: the less the better.
    fn cost(&self) -> (u64, bool, bool) {
        (self.sessions, self.owned, self.named)
    }
}

/// Takes as many of the candidates as are wanted, those first that cost least; of those that cost
/// the same the lowest that `suits` (the index of what it is for, the number), if one does.
fn give(
    what: &str,
    wanted: usize,
    mut candidates: Vec<Candidate>,
    in_use: usize,
    most: u32,
    mut suits: impl FnMut(usize, u32) -> bool,
) -> Result<Given> {
    candidates.sort_unstable();
    if wanted > candidates.len() {
        bail!(
            "{} numbers for {what} are short: the configuration needs {wanted} more, {} of all {most} can be given, and {in_use} \
             that it leaves out are in use by connections; wait until these end, take it in two steps with a start between, \
             or end all by `steer detach`",
            wanted - candidates.len(),
            candidates.len(),
        );
    }
    let mut chosen = Vec::new();
    for index in 0..wanted {
        let cost = candidates[0].cost();
        let same = candidates.iter().take_while(|candidate| candidate.cost() == cost);
        let suited = same.clone().position(|candidate| suits(index, candidate.number));
        chosen.push(candidates.remove(suited.unwrap_or(0)));
    }
    let reused = chosen
        .iter()
        .filter(|candidate| candidate.owned || candidate.named)
        .map(|c| c.number)
        .collect();
    let sessions = chosen.iter().map(|candidate| candidate.sessions).sum();
    Ok(Given { given: chosen.iter().map(|candidate| candidate.number).collect(), reused, sessions })
}

fn number_vips(config: &Config, found: &Found) -> Result<Given> {
    let kept = served(config).filter_map(|at| found.vip(&at)).map(|vip| vip.id);
    let kept = kept.collect::<HashSet<_>>();
    let wanted = config.pools.len() - kept.len();
    let (mut candidates, mut in_use) = (Vec::new(), 0);
    for number in (0..MAX_VIPS as u16).filter(|number| !kept.contains(number)) {
        let use_ = found.named.vip(number);
        if use_.connections > 0 {
            in_use += 1;
            continue;
        }
        let owned = found.before.vips.iter().any(|(_, vip)| vip.id == number);
        candidates.push(Candidate {
            sessions: use_.sessions,
            owned,
            named: use_.named,
            number: number.into(),
        });
    }
    give("VIPs", wanted, candidates, in_use, MAX_VIPS, |_, _| true)
}

/// Backends of the configuration that have no number.
fn new_backends(config: &Config, found: &Found) -> Vec<Endpoint> {
    let numbered =
        found.before.backends.iter().map(|(_, backend)| backend.endpoint).collect::<HashSet<_>>();
    asked(config).filter(|at| !numbered.contains(at)).collect()
}

fn number_backends(config: &Config, found: &Found) -> Result<Given> {
    let asked = asked(config).collect::<HashSet<_>>();
    let vips = served(config).collect::<HashSet<_>>();
    let stays = |backend: &Backend| {
        // What an operator added stays as long as its VIP does.
        let added =
            backend.flags & BACKEND_PRESENT != 0 && !found.was_configured(&backend.endpoint);
        asked.contains(&backend.endpoint) || added && vips.contains(&backend.vip)
    };
    let owners =
        found.before.backends.iter().map(|(id, backend)| (*id, backend)).collect::<HashMap<_, _>>();
    let (mut candidates, mut in_use) = (Vec::new(), 0);
    for number in 0..MAX_BACKENDS {
        let owner = owners.get(&number);
        if owner.is_some_and(|backend| stays(backend)) {
            continue;
        }
        let use_ = found.named.backend(number as u16);
        if use_.connections > 0 {
            in_use += 1;
            continue;
        }
        let owned = owner.is_some();
        candidates.push(Candidate { sessions: use_.sessions, owned, named: use_.named, number });
    }
    let new = new_backends(config, found);
    let pool_of = pools(config);
    // What a search for the owner of a key name tells the backends of a pool by.
    let mut taken = HashMap::<Endpoint, u64>::new();
    for (id, backend) in found.before.backends.iter().filter(|(_, backend)| stays(backend)) {
        *taken.entry(backend.vip).or_default() |= backend_bit(*id as u16);
    }
    let suits = |index: usize, number: u32| {
        let bits = taken.entry(pool_of[&new[index]]).or_default();
        let free = *bits & backend_bit(number as u16) == 0;
        *bits |= if free { backend_bit(number as u16) } else { 0 };
        free
    };
    give("backends", new.len(), candidates, in_use, MAX_BACKENDS, suits)
}

/// Refuses addresses and ports that have no place in the directory together.
fn refuse_crowd(config: &Config, found: &Found, numbers: &Numbers) -> Result<()> {
    let vips = served(config).zip(&numbers.vips);
    let vips = vips.map(|(at, id)| (at, Vip { id: *id, ..Vip::default() }));
    let old = found.before.backends.iter();
    let old = old.filter(|(id, _)| !numbers.reused_backends.contains(&(*id as u16)));
    let mut backends = old.map(|(id, backend)| (backend.endpoint, *id)).collect::<HashMap<_, _>>();
    backends.extend(numbers.backends.iter().map(|(at, id)| (*at, *id)));
    let record = |(endpoint, id)| (id, Backend { endpoint, ..Backend::default() });
    let backends = backends.into_iter().map(record).collect::<Vec<_>>();
    plane::half(&vips.collect::<Vec<_>>(), &backends).map(drop)
}

fn refuse_cost(memory: &Memory) -> Result<()> {
    match memory.available {
        Some(available) if memory.new > available => bail!(
            "the tables take {} of memory and the machine has {} left: make [sizes] smaller ({} alone takes {})",
            size(memory.new),
            size(available),
            memory.largest.0,
            size(memory.largest.1)
        ),
        Some(_) | None => Ok(()),
    }
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    match bytes as f64 {
        few if few < 1e6 => format!("{:.1} kB", few / 1e3),
        some if some < 1e9 => format!("{:.1} MB", some / 1e6),
        many => format!("{:.1} GB", many / 1e9),
    }
}

/// What an entry is worth to somebody.
fn worth(table: &str) -> &'static str {
    match table {
        "sessions" => "their clients make a full handshake next time",
        "splices" => "their connections break",
        "flows" | "handshakes" | "legs" => "their connections may break",
        "pending" => "their clients repeat what was buffered",
        _ => "they start at zero",
    }
}

/// What an upgrade takes over, as a sentence.
fn carried(old: &Old, found: &Found) -> String {
    let draining = found
        .before
        .backends
        .iter()
        .filter(|(_, backend)| backend.flags & BACKEND_DRAINING != 0)
        .count();
    let n = |table| found.named.entries(table);
    format!(
        "the state of layout v{} is carried over to v{LAYOUT_VERSION}: VIPs {}, backends {} (drains {draining}), sessions {}, \
         key names {}, connections {}, splices {}, handshakes {}",
        old.dir().layout(),
        found.before.vips.len(),
        found.before.backends.len(),
        n("sessions"),
        n("key_names"),
        n("flows"),
        n("splices"),
        n("handshakes"),
    )
}

/// What it does not take over and nobody misses, as a sentence.
fn forgotten(lost: &NotCarried) -> String {
    format!("not carried over: {} {}: {}", lost.n, lost.what, lost.then)
}

/// Refuses a VIP that another gateway on the same interfaces has.
fn refuse_vips_of_others(config: &Config, dir: &PinDir) -> Result<()> {
    let interfaces =
        config.interfaces.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>();
    for other in plane::gateways(dir) {
        if !other.interfaces.iter().any(|name| interfaces.contains(&name.as_str())) {
            continue;
        }
        let served = config.pools.iter().map(Pool::service);
        if let Some(vip) =
            served.filter_map(|service| service.address()).find(|at| other.vips.contains(at))
        {
            bail!(
                "{vip} is a VIP of the gateway at {} already, which has interfaces in common with this one",
                other.pin_dir.display()
            );
        }
    }
    Ok(())
}

/// Tables that the file wants smaller than the running kernel can share out among the CPUs.
fn raised_sizes(sizes: &Sizes, least: u32) -> Vec<String> {
    let asked = MAPS.iter().filter(|map| map.kind == Kind::LruHash).map(|map| (map, sizes.of(map)));
    let smaller = asked.filter(|(map, wanted)| *wanted < map.entries && *wanted < least);
    let told = smaller.map(|(map, wanted)| {
        format!(
            "[sizes] {} = {wanted}: the table gets {least} entries, which Linux before 6.17 needs on so many CPUs",
            map.name
        )
    });
    told.collect()
}

/// What this machine would refuse a start for, where it may be another one than the gateway's.
fn elsewhere(config: &Config, dir: &PinDir) -> Vec<String> {
    let pins =
        dir.require_bpf_fs().err().map(|error| refused_here(format_args!("pin_dir {error:#}")));
    let socket = refuse_file_in_place(&config.socket).err();
    let socket = socket.map(|error| refused_here(format_args!("{error:#}")));
    let metrics = config.metrics.and_then(|at| match TcpListener::bind((at.ip(), 0)) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            Some(refused_here(format_args!("metrics = \"{at}\": no interface has this address")))
        }
        Ok(_) | Err(_) => None,
    });
    [pins, socket, metrics].into_iter().flatten().collect()
}

/// The warning that this machine would refuse a start.
pub(crate) fn refused_here(why: fmt::Arguments<'_>) -> String {
    format!("here a start would be refused: {why}")
}

/// Backends whose address this machine has itself, or is going to have as a VIP.
fn own_backends(config: &Config) -> Vec<String> {
    let assigned = |ip| config.vips().any(|vip| vip.assign && vip.address.ip() == ip);
    let backends = config.backends().map(|backend| backend.address);
    let own = backends.filter(|at| assigned(at.ip()) || is_own(at.ip()));
    let warning = |at| {
        format!(
            "backend {at}: this machine has the address itself, and a gateway forwards nothing to its own addresses: health \
             checks count the backend as down; have the server on another machine"
        )
    };
    own.map(warning).collect()
}

/// Inline pools in which nothing can be moved.
fn lonely(config: &Config) -> Vec<String> {
    let inline = config.pools.iter().filter(|pool| pool.inline().is_some());
    let lonely = inline.filter(|pool| pool.backends.len() == 1);
    let warning = |pool: &Pool| {
        let of = pool.service().titled();
        format!("{of} has one backend: there is no other that a connection could be moved to")
    };
    lonely.map(warning).collect()
}

fn warnings(config: &Config, dir: &PinDir, found: &Found) -> Vec<String> {
    let names = config.interfaces.iter().map(|interface| interface.name.as_str());
    let missing = names.clone().filter(|name| plane::ifindex(name).is_none());
    let mut warnings: Vec<_> =
        missing.map(|name| format!("there is no interface {name}: it is waited for")).collect();
    let vips = config.vips().map(|vip| vip.address).collect::<Vec<SocketAddr>>();
    for other in plane::gateways(dir) {
        let both =
            other.interfaces.iter().filter(|name| names.clone().any(|own| own == name.as_str()));
        let both = both.cloned().collect::<Vec<_>>();
        let place = other.pin_dir.display();
        if !both.is_empty() {
            warnings.push(format!(
                "the gateway at {place} manages {} too: packets meet the programs of both",
                both.join(", ")
            ));
        }
        let same = other
            .vips
            .iter()
            .filter(|vip| vips.contains(vip))
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        if !same.is_empty() {
            warnings.push(format!("the gateway at {place} has the VIP {} too", same.join(", ")));
        }
    }
    let served = served(config).collect::<HashSet<_>>();
    for (at, vip) in found.before.vips.iter().filter(|(at, _)| !served.contains(at)) {
        let connections = found.named.vip(vip.id).connections;
        if connections > 0 {
            let of = Service::of(at).titled();
            warnings.push(format!(
                "the {of} is left out: its {connections} connections are steered no more"
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(number: u32) -> Candidate {
        Candidate { sessions: 0, owned: false, named: false, number }
    }

    #[test]
    fn tables_that_the_kernel_needs_larger_than_the_file_says_are_told() {
        let sizes = Sizes { pending: 64, splices: 1, ..Sizes::default() };
        let told = "[sizes] pending = 64: the table gets 2304 entries, which Linux before 6.17 needs on so many CPUs";
        assert_eq!(raised_sizes(&sizes, 2304), [told]);
        assert!(raised_sizes(&sizes, 1).is_empty());
        assert!(raised_sizes(&Sizes::default(), 2304).is_empty());
    }

    #[test]
    fn numbers_are_taken_where_they_cost_least() {
        let owned = Candidate { owned: true, ..free(0) };
        let with_sessions = Candidate { sessions: 3, owned: true, named: true, ..free(1) };
        let candidates = vec![with_sessions, owned, free(7)];
        let given = |wanted| give("VIPs", wanted, candidates.clone(), 2, 64, |_, _| true).unwrap();
        assert_eq!(given(1), Given { given: vec![7], reused: vec![], sessions: 0 });
        assert_eq!(given(2), Given { given: vec![7, 0], reused: vec![0], sessions: 0 });
        assert_eq!(given(3), Given { given: vec![7, 0, 1], reused: vec![0, 1], sessions: 3 });
    }

    #[test]
    fn a_number_that_suits_is_taken_where_it_costs_no_more() {
        let owned = Candidate { owned: true, ..free(5) };
        let candidates = vec![owned, free(3), free(4), free(70)];
        let given = |suits: fn(usize, u32) -> bool| {
            give("backends", 3, candidates.clone(), 0, 1024, suits).unwrap().given
        };
        assert_eq!(given(|index, number| index != 0 || number == 70), [70, 3, 4]);
        assert_eq!(given(|_, number| number == 5), [3, 4, 70], "5 belongs to somebody");
        assert_eq!(given(|index, number| index == 1 && number == 4), [3, 4, 70]);
    }

    /// 0 is its pool's, 1 to 63 are others': 64 has the bit of 0.
    #[test]
    fn new_backends_get_numbers_that_a_search_tells_from_their_pools() {
        let backends =
            [1, 2, 3].map(|n| format!("[[vip.backend]]\naddress = \"10.0.0.{n}:443\"\n"));
        let text = format!(
            "[[interface]]\nname = \"eth0\"\n[[vip]]\naddress = \"192.0.2.10:443\"\n{}",
            backends.concat()
        );
        let config = Config::parse(std::path::Path::new("steer.toml"), &text).unwrap();
        let at = |last: u8| endpoint(SocketAddr::from(([10, 0, 0, last], 443)));
        let vip = config.pools[0].service().endpoint();
        let record = |last: u8, vip: Endpoint| Backend {
            endpoint: at(last),
            vip,
            flags: BACKEND_PRESENT,
            ..Backend::default()
        };
        let others = (1..64).map(|id| (id, record(100 + id as u8, at(250))));
        let backends = std::iter::once((0, record(1, vip))).chain(others).collect();
        let before = Before { backends, ..Before::default() };
        let found = Found { there: true, old: None, before, named: Named::default() };
        assert_eq!(number_backends(&config, &found).unwrap().given, [65, 66]);
    }

    #[test]
    fn too_few_numbers_are_refused_with_how_many_are_short() {
        let error = give("backends", 5, vec![free(1), free(2)], 600, 1024, |_, _| true)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(
                "3 numbers for backends are short: the configuration needs 5 more, 2 of all"
            ),
            "{error}"
        );
        assert!(
            error.contains("600 that it leaves out are in use") && error.contains("steer detach"),
            "{error}"
        );
    }
}
