//! What a start would do, judged before anything is touched: which numbers VIPs and backends get,
//! whether all of them have a place, what the tables cost, and what would be lost.
//!
//! [`judge`] only reads. The start applies what it says; `steer config check` shows it.

mod changes;
mod named;
mod needs;
mod numbers;
mod warnings;

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
pub(super) use named::{Named, purge};
pub(super) use numbers::Numbers;
use numbers::{number, served};
use steer_common::shared::{BACKEND_DRAINING, Backend, Endpoint, LAYOUT_VERSION, Vip};
pub(crate) use warnings::refused_here;
use warnings::{elsewhere, lonely, own_backends, raised_sizes, warnings};

use super::require_probes;
use crate::{
    config::Config,
    ha,
    plane::{self, Before, Memory, NotCarried, Old, PinDir, Plane},
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
    require_probes(&config.pools)?;
    config.ha.as_ref().map_or(Ok(()), ha::check).context("use [ha]")?;
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
    plane::half(&vips.collect::<Vec<_>>(), &numbers.entrances, &backends).map(drop)
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
    let interfaces = config.attached();
    for other in plane::gateways(dir) {
        if !other.interfaces.iter().any(|name| interfaces.iter().any(|own| own.name == *name)) {
            continue;
        }
        if let Some(vip) = config.addresses().find(|at| other.vips.contains(at)) {
            bail!(
                "{vip} is a VIP of the gateway at {} already, which has interfaces in common with this one",
                other.pin_dir.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use steer_common::shared::{Address, MAX_BACKENDS};

    use super::*;

    /// Thrice as many as there are numbers, so that no seed places them: nothing that may be
    /// configured is refused so.
    #[test]
    fn what_has_no_place_in_the_directory_is_refused_by_the_judge_who_only_reads() {
        let text = "[[interface]]\nname = \"eth0\"\n[[vip]]\naddress = \"198.51.100.10:443\"\n\
                    [[vip.backend]]\naddress = \"10.0.0.11:443\"\n";
        let config = Config::parse(Path::new("steer.toml"), text).unwrap();
        let numbers = Numbers { vips: vec![0], ..Numbers::default() };
        let removed = |id: u32| {
            let address = Address::from_v4([10, 77, (id / 250) as u8, (id % 250) as u8]);
            (id, Backend { endpoint: Endpoint::tcp(address, 443), ..Backend::default() })
        };
        let judged = |n| {
            let backends = (0..n).map(removed).collect();
            let before = Before { backends, ..Before::default() };
            let found = Found { there: true, old: None, before, named: Named::default() };
            refuse_crowd(&config, &found, &numbers).map_err(|error| error.to_string())
        };
        assert_eq!(judged(MAX_BACKENDS), Ok(()));
        let told = judged(3 * MAX_BACKENDS).expect_err("it has a place");
        assert!(told.starts_with("find a place in the directory for each of"), "{told}");
    }
}
