//! Which numbers VIPs, pools and backends get: their own, free ones, or those of what the
//! configuration leaves out, if no connection uses them any more.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, bail};
use steer_common::shared::{
    BACKEND_PRESENT, Backend, Endpoint, Entrance, MAX_BACKENDS, MAX_ENTRANCES, MAX_VIPS,
    backend_bit,
};

use super::Found;
use crate::{
    address::endpoint,
    clock,
    config::{Config, Pool},
};

/// The numbers that a start gives.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::agent) struct Numbers {
    /// Of each VIP of the configuration, in its order.
    pub(in crate::agent) vips: Vec<u16>,
    /// Of each VIP that shares the pool of another one, with what is to be written of it.
    pub(in crate::agent) entrances: Vec<(u32, Entrance)>,
    /// Of backends that have none yet.
    pub(in crate::agent) backends: HashMap<Endpoint, u32>,
    /// Given to another VIP or backend than they belonged to: what tables say of them is to be
    /// forgotten first.
    pub(in crate::agent) reused_vips: HashSet<u16>,
    /// As `reused_vips`.
    pub(in crate::agent) reused_backends: HashSet<u16>,
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
pub(super) fn served(config: &Config) -> impl Iterator<Item = Endpoint> + Clone {
    config.pools.iter().map(|pool| pool.service().endpoint())
}

/// Gives numbers to what has none: free ones first, then those of what the configuration leaves
/// out, if no connection uses them any more. Sessions alone that would be lost by that are
/// destroyed.
pub(super) fn number(
    config: &Config,
    found: &Found,
    destroys: &mut Vec<String>,
) -> Result<Numbers> {
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
    let vips_given =
        served(config).filter_map(|at| known(&at).or_else(|| fresh.next())).collect::<Vec<_>>();
    Ok(Numbers {
        entrances: number_entrances(config, found, &vips_given),
        vips: vips_given,
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

/// VIPs that share a pool keep their numbers. New ones get those that no open connection names, as
/// far as there are such, and the lowest of them: what such a connection is shown follows from its
/// number.
fn number_entrances(config: &Config, found: &Found, vips: &[u16]) -> Vec<(u32, Entrance)> {
    let before = &found.before.entrances;
    let number = |at: &Endpoint| before.iter().find(|(_, known)| known.endpoint == *at);
    let also = config.pools.iter().zip(vips).flat_map(|(pool, id)| {
        let also = pool.vip().into_iter().flat_map(|vip| &vip.also);
        also.map(|at| (endpoint(*at), *id))
    });
    let (known, new) = also.partition::<Vec<_>, _>(|(at, _)| number(at).is_some());
    let mut given = known
        .iter()
        .filter_map(|(at, pool)| {
            let (number, was) = number(at)?;
            let since = if was.pool == *pool { was.since } else { clock::seconds() };
            Some((*number, Entrance { pool: *pool, since, ..*was }))
        })
        .collect::<Vec<_>>();
    let is_kept = |number: &u32| given.iter().any(|(kept, _)| kept == number);
    let mut free = (1..MAX_ENTRANCES).filter(|number| !is_kept(number)).collect::<Vec<_>>();
    free.sort_by_key(|number| {
        let owned = before.iter().any(|(other, _)| other == number);
        (found.named.names_entrance(*number as u8), owned, *number)
    });
    let since = clock::seconds();
    let fresh = new.into_iter().zip(free);
    given.extend(
        fresh.map(|((endpoint, pool), number)| {
            (number, Entrance { endpoint, pool, zero: 0, since })
        }),
    );
    given
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{agent::plan::Named, plane::Before};

    fn free(number: u32) -> Candidate {
        Candidate { sessions: 0, owned: false, named: false, number }
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

    /// The numbers of VIPs that share a pool: kept, else such as no connection names.
    #[test]
    fn vips_that_share_a_pool_keep_their_numbers_and_new_ones_get_free_ones() {
        let at = |last: u8| endpoint(SocketAddr::from(([192, 0, 2, last], 443)));
        let vips =
            (1..=4).map(|n| format!("[[vip]]\naddress = \"192.0.2.{n}:443\"\npool = \"web\"\n"));
        let text = "[[interface]]\nname = \"eth0\"\n[[pool]]\nname = \"web\"\n[[pool.backend]]\n\
                    address = \"10.0.0.1:443\"\n"
            .to_owned()
            + &vips.collect::<String>();
        let config = Config::parse(std::path::Path::new("steer.toml"), &text).unwrap();
        let entrance = |last, pool| Entrance { endpoint: at(last), pool, zero: 0, since: 7 };
        // 1 was that of a VIP that is gone and has no connections, 2 is kept by its pool, 5 was of
        // another pool.
        let entrances = vec![(1, entrance(9, 4)), (2, entrance(3, 4)), (5, entrance(4, 6))];
        let before = Before { entrances, ..Before::default() };
        let found = Found { there: true, old: None, before, named: Named::default() };
        let given = number_entrances(&config, &found, &[4]);
        let numbers = given.iter().map(|(number, it)| (*number, it.endpoint, it.pool));
        let wanted = [(2, at(3), 4), (5, at(4), 4), (3, at(2), 4)];
        assert_eq!(numbers.collect::<Vec<_>>(), wanted);
        let since = given.iter().map(|(_, it)| it.since == 7).collect::<Vec<_>>();
        assert_eq!(since, [true, false, false], "new to the pool");
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
