//! Re-homed flows as other gateways know them: by addresses, not by numbers of this gateway. A
//! gateway that takes over needs just that to go on translating (`unknown::known` in the programs
//! puts a record back from `splices`). What tells of the way to a client is left out: the client's
//! next packet shows it.

use std::net::SocketAddr;

use anyhow::Result;
use steer_common::{
    fast,
    flow::{State, StateWord},
    shared::{
        FLOW_CLIENT_DONE, FLOW_CLIENT_FIN, FLOW_CLOSED, FLOW_HOP_WANTED, FLOW_LEARNED, FLOW_RESET,
        FLOW_SERVER_DONE, FLOW_SERVER_FIN, FLOW_UNCONFIRMED, Flow, FlowKey, Leg, SERVICE_BACKEND,
        SERVICE_WAY_THERE, SWITCH_LEGS, VIP_RETURN_BY_ROUTE, flow_entrance,
    },
};

use super::record::{Name, Numbers, Splice};
use crate::{
    address::{address, ip},
    clock,
    plane::Plane,
    rows::{Names, Told},
    service::Service,
};

/// How far a flow went: what one gateway saw of it and another one may not have.
const MARKS: u32 = FLOW_CLIENT_FIN
    | FLOW_SERVER_FIN
    | FLOW_CLIENT_DONE
    | FLOW_SERVER_DONE
    | FLOW_RESET
    | FLOW_CLOSED;

/// What a key of `splices` names; `None` where that is forgotten.
pub(super) fn name(names: &Names, key: &FlowKey) -> Option<Name> {
    let client = SocketAddr::new(ip(&key.client), u16::from_be_bytes(key.client_port));
    if let Some(id) = key.dialled() {
        let dialled = *names.owners.get(&id)?;
        let pool = *names.services.get(names.pools.get(&id)?)?;
        return Some(Name { client, pool, dialled: Some(dialled), beside: None });
    }
    let pool = *names.services.get(&key.pool())?;
    let beside = if key.is_beside() {
        let number = (key.service >> steer_common::shared::ENTRANCE_AT) as u8 & ENTRANCE_BITS;
        Some(vip(names, &pool, number)?)
    } else {
        None
    };
    Some(Name { client, pool, dialled: None, beside })
}

/// Bits of a service that are the number of an entrance, where they begin at 0.
const ENTRANCE_BITS: u8 = 0x3f;

/// The address of an entrance of a pool; 0 is the VIP that it is known by.
fn vip(names: &Names, pool: &Service, number: u8) -> Option<SocketAddr> {
    if number == 0 { pool.address() } else { names.entrances.get(&number).copied() }
}

/// The number of an entrance of a pool.
fn entrance(names: &Names, pool: &Service, vip: SocketAddr) -> Option<u8> {
    if pool.address() == Some(vip) {
        return Some(0);
    }
    names.entrances.iter().find(|(_, at)| **at == vip).map(|(number, _)| *number)
}

/// The key of a flow here, or why there is none.
pub(super) fn key(names: &Names, name: &Name) -> Result<FlowKey, Told> {
    let vip = names.vips.get(&name.pool).ok_or(Told::Elsewhere)?;
    let (client, client_port) = (address(name.client.ip()), name.client.port().to_be_bytes());
    let key = FlowKey { client, client_port, service: vip.id };
    let service = match (name.dialled, name.beside) {
        (Some(dialled), _) => {
            let id = names.holders.get(&(vip.id, dialled)).ok_or(Told::Elsewhere)?;
            SERVICE_BACKEND | id
        }
        (None, Some(beside)) => {
            key.service_beside(entrance(names, &name.pool, beside).ok_or(Told::Elsewhere)?)
        }
        (None, None) => vip.id,
    };
    Ok(FlowKey { service, ..key })
}

/// What an entry of `splices` says; `None` where it does not go on for good yet, or names what is
/// forgotten.
pub(super) fn splice(names: &Names, key: &FlowKey, flow: &Flow, now: u32) -> Option<Splice> {
    let word = StateWord(flow.word);
    if word.state() != State::Spliced {
        return None;
    }
    let name = name(names, key)?;
    let entrance = match flow.entrance() {
        0 => None,
        number => Some(vip(names, &name.pool, number)?),
    };
    Some(Splice {
        name,
        entrance,
        first: *names.owners.get(&flow.first)?,
        owner: *names.owners.get(&flow.owner)?,
        numbers: Numbers {
            isn: word.isn(),
            marks: flow.flags & MARKS,
            client_next: flow.client_next,
            server_next: flow.server_next,
            delta: flow.delta,
            ts_delta: flow.ts_delta,
            first_isn: flow.first_isn,
            owner_isn: flow.owner_isn,
            first_port: u16::from_be_bytes(flow.first_port),
            owner_port: u16::from_be_bytes(flow.owner_port),
            client_mss: flow.client_mss,
            advertised_mss: flow.advertised_mss,
            scales: [flow.first_scale, flow.owner_scale, flow.client_scale],
            offered: flow.offered,
            agreed: flow.agreed,
            idle: clock::age(now, flow.seen),
        },
    })
}

/// The entry of a splice here, or why there is none. Backends that left their pool count, as long as
/// their number stands for them.
fn entry(names: &Names, splice: &Splice, now: u32) -> Result<(FlowKey, Flow), Told> {
    let key = key(names, &splice.name)?;
    let vip = names.vips.get(&splice.name.pool).ok_or(Told::Elsewhere)?;
    let number = |at: SocketAddr| names.holders.get(&(vip.id, at)).copied().ok_or(Told::Elsewhere);
    let entrance = match splice.entrance {
        None => 0,
        Some(at) => entrance(names, &splice.name.pool, at).ok_or(Told::Elsewhere)?,
    };
    let Numbers { isn, marks, scales: [first_scale, owner_scale, client_scale], idle, .. } =
        splice.numbers;
    if idle > vip.flow_timeout {
        return Err(Told::Expired);
    }
    let hop = if vip.flags & VIP_RETURN_BY_ROUTE == 0 { FLOW_HOP_WANTED } else { 0 };
    let numbers = &splice.numbers;
    let flow = Flow {
        word: StateWord::new(State::Spliced, isn).0,
        // What the owner says next tells where both streams stand by then.
        flags: marks & MARKS | FLOW_LEARNED | FLOW_UNCONFIRMED | hop | flow_entrance(entrance),
        seen: now.wrapping_sub(idle),
        client_next: numbers.client_next,
        server_next: numbers.server_next,
        delta: numbers.delta,
        ts_delta: numbers.ts_delta,
        first: number(splice.first)?,
        owner: number(splice.owner)?,
        first_port: numbers.first_port.to_be_bytes(),
        owner_port: numbers.owner_port.to_be_bytes(),
        first_scale,
        owner_scale,
        client_scale,
        first_isn: numbers.first_isn,
        owner_isn: numbers.owner_isn,
        client_mss: numbers.client_mss,
        advertised_mss: numbers.advertised_mss,
        offered: numbers.offered,
        agreed: numbers.agreed,
        ..Flow::default()
    };
    Ok((key, flow))
}

/// What is to stand in `splices`; `None`: what stands there. The marks of all gateways count; of two
/// flows on the same ports the one that was heard of later is there.
fn merged(known: Option<&Flow>, told: &Flow) -> Option<Flow> {
    let Some(known) = known else { return Some(*told) };
    let later = told.seen.wrapping_sub(known.seen) as i32;
    if isn(known) != isn(told) || known.owner != told.owner {
        let follows = later > 0 || (later == 0 && known.closing());
        return follows.then_some(*told);
    }
    let flags = known.flags | told.flags & MARKS;
    if later <= 0 {
        return (flags != known.flags).then_some(Flow { flags, ..*known });
    }
    let Flow { seen, client_next, server_next, .. } = *told;
    Some(Flow { flags, seen, client_next, server_next, ..*known })
}

/// The client's initial sequence number.
pub(super) fn isn(flow: &Flow) -> u32 {
    StateWord(flow.word).isn()
}

/// What becomes of this gateway's own record of a flow where another one tells of the same ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Own {
    /// It says more than what is told.
    Right,
    /// It says the same flow's, as of about the same time.
    Stays,
    /// The flow went on elsewhere, or another one is there: what is told takes its place.
    Stale,
}

/// A record is stamped late by so much, where its flow is in the cache; seconds.
const LATE: i32 = fast::LIFE as i32 + 2;

fn judged(own: &Flow, told: &Flow) -> Own {
    let later = told.seen.wrapping_sub(own.seen) as i32;
    match (isn(own) == isn(told) && own.owner == told.owner, own.closing()) {
        // Its end was seen here.
        (true, true) => Own::Right,
        (false, true) if later >= 0 => Own::Stale,
        (_, false) if later > LATE => Own::Stale,
        (true, false) => Own::Stays,
        (false, _) => Own::Right,
    }
}

/// Takes over what another gateway says of a flow, but for what this one carries itself.
///
/// # Errors
/// When a map cannot be read or written.
pub(super) fn take(names: &Names, plane: &mut Plane, splice: &Splice, now: u32) -> Result<Told> {
    let (key, told) = match entry(names, splice, now) {
        Ok(entry) => entry,
        Err(why) => return Ok(why),
    };
    match plane.flow(&key)?.map(|own| judged(&own, &told)) {
        Some(Own::Right) => return Ok(Told::Known),
        // The programs put a record back from `splices` where there is none.
        Some(Own::Stale) => drop(plane.flows.remove(&key)?),
        Some(Own::Stays) | None => {}
    }
    let known = plane.splices.find(&key)?;
    let Some(flow) = merged(known.as_ref(), &told) else { return Ok(Told::Known) };
    if known.is_none() {
        hold_ports(plane, &key, &flow)?;
    }
    let written = plane.splices.insert_or_full(&key, &flow)?;
    Ok(if written { Told::Taken } else { Told::Full })
}

/// Ports that the flow has at its owner, as the programs enter them.
fn hold_ports(plane: &mut Plane, key: &FlowKey, flow: &Flow) -> Result<()> {
    let is_inline = key.dialled().is_some();
    if !is_inline && flow.owner_port == [0; 2] {
        return Ok(());
    }
    let service = if is_inline { key.service } else { key.service_of_leg(flow.entrance()) };
    plane.set_switch(SWITCH_LEGS, true)?;
    for (leg_key, leg) in legs(key, flow, service) {
        plane.legs.insert_new(&leg_key, &leg)?;
    }
    Ok(())
}

/// The entries of `legs` that a flow has at its owner.
fn legs(key: &FlowKey, flow: &Flow, service: u16) -> impl Iterator<Item = (FlowKey, Leg)> {
    let port = if flow.owner_port == [0; 2] { key.client_port } else { flow.owner_port };
    let at_owner = SERVICE_BACKEND | flow.owner;
    let back = FlowKey { client_port: port, service: at_owner, ..*key };
    let back = (back, Leg { seen: flow.seen, port: key.client_port, service });
    // Of an inline pool's flow nobody asks for its way.
    let there = key.dialled().is_none().then(|| {
        let there = FlowKey { service: at_owner | SERVICE_WAY_THERE, ..*key };
        (there, Leg { seen: flow.seen, port, service })
    });
    [Some(back), there].into_iter().flatten()
}

/// Forgets a flow that is over where it went, if it is that one: `over` is its client's initial
/// sequence number, `later` how long ago that was told, seconds. Its legs go with the next sweeps.
///
/// # Errors
/// When a map cannot be read or written.
pub(super) fn forget(
    plane: &mut Plane,
    key: &FlowKey,
    over: u32,
    later: u32,
    now: u32,
) -> Result<Told> {
    if let Some(own) = plane.flow(key)?.filter(|own| isn(own) == over) {
        if clock::age(now, own.seen) < later && !own.closing() {
            return Ok(Told::Known);
        }
        plane.flows.remove(key)?;
    }
    let is_it = plane.splices.find(key)?.is_some_and(|flow| isn(&flow) == over);
    if is_it {
        plane.splices.remove(key)?;
    }
    Ok(if is_it { Told::Taken } else { Told::Known })
}

/// Forgets a flow that another gateway does not tell of any more, unless it goes on here: `seen` is
/// its last packet as that one told it.
///
/// # Errors
/// When a map cannot be read or written.
pub(super) fn forget_untold(plane: &mut Plane, key: &FlowKey, seen: u32) -> Result<()> {
    let goes_on = plane.flow(key)?.is_some_and(|own| !own.closing());
    if !goes_on && plane.splices.find(key)?.is_some_and(|flow| flow.seen == seen) {
        plane.splices.remove(key)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;

    use steer_common::shared::{SERVICE_BESIDE, Vip};

    use super::*;

    /// A gateway with a VIP, one that shares its pool, and an inline pool; `by` moves all of its
    /// numbers.
    pub(in crate::ha) fn names(by: u16) -> Names {
        let (web, inline) = ("198.51.100.10:443".parse().unwrap(), "web".parse().unwrap());
        let vip = |id| Vip { id, flow_timeout: 600, session_timeout: 600, ..Vip::default() };
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        Names {
            services: HashMap::from([(by, web), (by + 1, inline)]),
            vips: HashMap::from([(web, vip(by)), (inline, vip(by + 1))]),
            owners: HashMap::from([
                (by, at("10.0.0.1:443")),
                (by + 1, at("10.0.0.2:443")),
                (by + 2, at("10.0.1.1:443")),
                (by + 3, at("[fd00::2]:443")),
            ]),
            backends: HashMap::from([
                ((by, at("10.0.0.1:443")), by),
                ((by, at("10.0.0.2:443")), by + 1),
                ((by + 1, at("10.0.1.1:443")), by + 2),
                ((by + 1, at("[fd00::2]:443")), by + 3),
            ]),
            entrances: HashMap::from([(by as u8 + 1, at("198.51.100.11:443"))]),
            ..Names::default()
        }
        .with_holders()
    }

    fn flow(first: u16, owner: u16) -> Flow {
        Flow {
            word: StateWord::new(State::Spliced, 77).0,
            flags: FLOW_LEARNED | FLOW_UNCONFIRMED | FLOW_HOP_WANTED | FLOW_CLIENT_FIN,
            seen: 990,
            client_next: 1,
            server_next: 2,
            delta: 3,
            ts_delta: 4,
            first,
            owner,
            first_port: [0, 0],
            owner_port: [4, 5],
            first_scale: 6,
            owner_scale: 7,
            client_scale: 8,
            first_isn: 9,
            owner_isn: 10,
            client_mss: 11,
            advertised_mss: 12,
            offered: 13,
            agreed: 14,
            ..Flow::default()
        }
    }

    fn key_of(service: u16) -> FlowKey {
        let client = address("192.0.2.7".parse().unwrap());
        FlowKey { client, client_port: 40000_u16.to_be_bytes(), service }
    }

    #[test]
    fn a_flow_is_the_same_at_a_gateway_with_other_numbers_and_another_clock() {
        let (here, there) = (names(3), names(20));
        let beside = key_of(3).service_beside(4);
        let beside_there = key_of(20).service_beside(21);
        assert_ne!(beside & SERVICE_BESIDE, 0);
        for (service, service_there, pair, entrance) in [
            (3, 20, (3, 4), 0),
            (3, 20, (4, 3), 4),
            (beside, beside_there, (3, 4), 4),
            (SERVICE_BACKEND | 5, SERVICE_BACKEND | 22, (5, 6), 0),
        ] {
            let mut sent = flow(pair.0, pair.1);
            sent.flags |= flow_entrance(entrance);
            let told = splice(&here, &key_of(service), &sent, 1000).unwrap();
            let (key, got) = entry(&there, &told, 50).ok().unwrap();
            assert_eq!(key, key_of(service_there));
            let entrance = if entrance == 0 { 0 } else { 21 };
            let expected = Flow {
                seen: 40,
                flags: flow(0, 0).flags | flow_entrance(entrance),
                ..flow(pair.0 + 17, pair.1 + 17)
            };
            assert_eq!(got, expected);
            // And back again: nothing got lost on the way.
            assert_eq!(splice(&there, &key, &got, 50), Some(told));
        }
    }

    #[test]
    fn what_is_not_known_there_is_left_and_what_is_not_settled_is_not_told() {
        let here = names(3);
        let mut waits = flow(3, 4);
        waits.word = StateWord::new(State::Wait, 77).0;
        assert_eq!(splice(&here, &key_of(3), &waits, 1000), None);
        let told = splice(&here, &key_of(3), &flow(3, 4), 1000).unwrap();
        let mut other = names(20);
        other.holders.retain(|(_, at), _| *at != told.owner);
        assert_eq!(entry(&other, &told, 50).err(), Some(Told::Elsewhere));
        let idle = Splice { numbers: Numbers { idle: 601, ..told.numbers }, ..told };
        assert_eq!(entry(&names(20), &idle, 50).err(), Some(Told::Expired));
    }

    #[test]
    fn marks_of_all_gateways_count_and_the_later_flow_is_the_one_that_is_there() {
        let known = flow(3, 4);
        let told = |seen, flags, isn| Flow {
            seen,
            flags,
            word: StateWord::new(State::Spliced, isn).0,
            client_next: 500,
            ..known
        };
        // The same flow, seen before, at the same time and later.
        let server_fin = told(980, FLOW_SERVER_FIN, 77);
        let both = merged(Some(&known), &server_fin).unwrap();
        assert_eq!(both.flags, known.flags | FLOW_SERVER_FIN);
        assert_eq!((both.seen, both.client_next), (990, 1));
        assert_eq!(merged(Some(&known), &told(990, FLOW_CLIENT_FIN, 77)), None);
        let later = merged(Some(&known), &told(995, 0, 77)).unwrap();
        assert_eq!((later.seen, later.client_next, later.flags), (995, 500, known.flags));
        // Another one on the same ports.
        assert_eq!(merged(Some(&known), &told(989, 0, 78)), None);
        assert_eq!(merged(Some(&known), &told(991, 0, 78)), Some(told(991, 0, 78)));
        let over = Flow { flags: known.flags | FLOW_RESET, ..known };
        assert_eq!(merged(Some(&over), &told(990, 0, 78)), Some(told(990, 0, 78)));
        assert_eq!(merged(Some(&over), &told(989, 0, 78)), None);
    }

    #[test]
    fn a_record_gives_way_to_a_flow_that_went_on_elsewhere_and_to_nothing_else() {
        let own = Flow { flags: 0, ..flow(3, 4) };
        let told = |later: i32, isn| Flow {
            seen: own.seen.wrapping_add_signed(later),
            word: StateWord::new(State::Spliced, isn).0,
            ..own
        };
        for (later, isn, expected) in [
            (-5, 77, Own::Stays),
            (LATE, 77, Own::Stays),
            (LATE + 1, 77, Own::Stale),
            (-5, 78, Own::Right),
            (LATE, 78, Own::Right),
            (LATE + 1, 78, Own::Stale),
        ] {
            assert_eq!(judged(&own, &told(later, isn)), expected, "{later} {isn}");
        }
        let over = Flow { flags: FLOW_RESET, ..own };
        assert_eq!(judged(&over, &told(0, 78)), Own::Stale);
        assert_eq!(judged(&over, &told(-1, 78)), Own::Right);
        assert_eq!(judged(&over, &told(LATE + 1, 77)), Own::Right, "its end was seen");
    }

    #[test]
    fn a_flow_holds_its_port_at_the_owner_as_the_programs_have_it() {
        let (key, mut flow) = (key_of(SERVICE_BACKEND | 5), flow(5, 6));
        let there = FlowKey { client_port: [4, 5], service: SERVICE_BACKEND | 6, ..key };
        let leg = Leg { seen: 990, port: key.client_port, service: key.service };
        assert_eq!(legs(&key, &flow, key.service).collect::<Vec<_>>(), [(there, leg)]);
        flow.owner_port = [0; 2];
        let own = FlowKey { client_port: key.client_port, ..there };
        assert_eq!(legs(&key, &flow, key.service).collect::<Vec<_>>(), [(own, leg)]);
        let (key, flow) = (key_of(3), Flow { owner: 4, ..super::tests::flow(3, 4) });
        let way = FlowKey { service: SERVICE_BACKEND | SERVICE_WAY_THERE | 4, ..key };
        let entered = legs(&key, &flow, 3).collect::<Vec<_>>();
        assert_eq!(entered[1], (way, Leg { seen: 990, port: [4, 5], service: 3 }));
    }
}
