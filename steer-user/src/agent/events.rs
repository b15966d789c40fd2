//! Reads what the programs tell through the ring of events: logs it, and looks in tickets for the
//! names of their keys.

use std::{
    collections::HashMap,
    mem::size_of,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use aya::maps::{MapData, RingBuf};
use steer_common::{counters::Counter, shared::Event};
use tokio::time;

use super::{
    Pools,
    asking::Asking,
    key_layout::{Finding, Search},
    moves::{Moves, UnderWay},
};
use crate::address;

/// How often the ring is read: nobody wakes the agent. It has room for 2900 events, so that up to
/// 58 000 a second are told; more are counted as lost.
const LOOK: Duration = Duration::from_millis(50);

/// Reads for ever; the ring stays empty for the programs even when nobody wants to see the events.
pub(super) async fn run(
    mut ring: RingBuf<MapData>,
    pools: Arc<Mutex<Pools>>,
    mut asking: Option<Asking>,
    moves: Moves,
) -> Result<()> {
    let mut searches = Searches::default();
    let mut under_way = UnderWay::default();
    loop {
        time::sleep(LOOK).await;
        while let Some(item) = ring.next() {
            let Some(event) = read(&item) else {
                log::warn!("an event of {} bytes; expected {}", item.len(), size_of::<Event>());
                continue;
            };
            if event.what == Counter::AckSwallowed as u16 {
                if let Some(asking) = &mut asking {
                    asking.note(event.at, event.flow);
                }
                continue;
            }
            log::debug!("{}", describe(&event));
            under_way.told(&event, &moves);
            let pool_of = |id| pools.lock().unwrap_or_else(PoisonError::into_inner).dialled(id);
            if let Some((vip, finding)) = searches.told(&event, pool_of) {
                // What is not written now is found once more.
                let written =
                    pools.lock().unwrap_or_else(PoisonError::into_inner).found(vip, &finding);
                written.unwrap_or_else(|error| log::error!("{error:#}"));
            }
        }
        if let Some(Err(error)) = asking.as_mut().map(Asking::ask) {
            log::error!("ask clients for their acknowledgements: {error:#}");
        }
    }
}

/// Searches for the place of key names, by `VipId`.
#[derive(Default)]
struct Searches(HashMap<u16, Search>);

impl Searches {
    /// A ticket may show it; a search that is over begins anew with the next ticket, if the
    /// programs still tell any. `pool_of` says of which inline pool a backend is.
    fn told(
        &mut self,
        event: &Event,
        pool_of: impl FnOnce(u16) -> Option<u16>,
    ) -> Option<(u16, Finding)> {
        if event.what != Counter::TicketTold as u16 {
            return None;
        }
        let vip = event.flow.dialled().map_or(Some(event.flow.pool()), pool_of)?;
        let finding = self.0.entry(vip).or_default().told(event.first, &event.ticket)?;
        self.0.remove(&vip);
        Some((vip, finding))
    }
}

fn read(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: there are enough bytes, and `Event` is valid for every bit pattern.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

fn describe(event: &Event) -> String {
    let what = Counter::from_index(event.what.into()).map_or("unknown", Counter::word);
    let client = address::ip(&event.flow.client);
    let port = u16::from_be_bytes(event.flow.client_port);
    let dialled = match event.flow.dialled() {
        Some(backend) => format!("backend {backend}"),
        None => format!("VIP {}", event.flow.pool()),
    };
    let Event { first, owner, .. } = event;
    format!("{what}: client {client} port {port}, {dialled}, first {first}, owner {owner}")
}

#[cfg(test)]
mod tests {
    use steer_common::shared::{Address, FlowKey, SERVICE_BACKEND};

    use super::*;

    /// A ticket is told of backend 1.
    fn event(flow: FlowKey, ticket: [u8; 32]) -> Event {
        Event {
            at: 0,
            flow,
            what: Counter::TicketTold as u16,
            first: 1,
            owner: 1,
            zero: 0,
            hello_len: 0,
            ticket,
        }
    }

    #[test]
    fn tickets_of_one_vip_or_pool_are_searched_together_and_other_events_not_at_all() {
        let ticket = |n| std::array::from_fn(|i| if i < 16 { 7 } else { n });
        let flow = |service| FlowKey { service, ..FlowKey::default() };
        let pool_of = |id| (id < 4).then_some(9);
        let mut searches = Searches::default();
        for n in 0..4 {
            let other = Event { what: Counter::Rehome as u16, ..event(flow(0), ticket(n)) };
            assert_eq!(searches.told(&other, pool_of), None);
            let nobodys = event(flow(SERVICE_BACKEND | 4), ticket(n));
            assert_eq!(searches.told(&nobodys, pool_of), None);
            assert_eq!(searches.told(&event(flow(u16::from(n)), ticket(n)), pool_of), None);
        }
        let found =
            (1..4).find_map(|n| searches.told(&event(flow(0), ticket(n)), pool_of)).unwrap();
        assert_eq!((found.0, found.1.layout.len, searches.0.contains_key(&0)), (0, 16, false));
        let dialled = |n: u8| event(flow(SERVICE_BACKEND | u16::from(n)), ticket(n));
        let found = (0..4).find_map(|n| searches.told(&dialled(n), pool_of)).unwrap();
        assert_eq!((found.0, found.1.layout.len), (9, 16));
    }

    #[test]
    fn an_event_is_told_in_the_counters_own_word() {
        let flow = FlowKey {
            client: Address::from_v4([192, 0, 2, 1]),
            client_port: [0x30, 0x39],
            service: 0,
        };
        let event = Event { what: Counter::Rehome as u16, owner: 2, ..event(flow, [0; 32]) };
        let told = "rehome: client 192.0.2.1 port 12345, VIP 0, first 1, owner 2";
        assert_eq!(describe(&event), told);
        let dialled = FlowKey { service: SERVICE_BACKEND | 1, ..flow };
        let told = told.replace("VIP 0", "backend 1");
        assert_eq!(describe(&Event { flow: dialled, ..event }), told);
    }

    #[test]
    fn a_short_event_is_refused() {
        assert_eq!(read(&[0; 8]), None);
    }
}
