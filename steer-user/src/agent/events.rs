//! Reads what the programs tell through the ring of events, and logs it.

use std::mem::size_of;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use steer_common::{counters::Counter, shared::Event};
use tokio::io::{Interest, unix::AsyncFd};

use crate::address;

/// Reads for ever; the ring stays empty for the programs even when nobody wants to see the events.
pub(super) async fn run(ring: RingBuf<MapData>) -> Result<()> {
    // SAFETY: the ring keeps its one descriptor open for as long as it lives, and the `AsyncFd` owns it.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    let mut ring = ring.context("watch the ring of events")?;
    loop {
        let mut ready = ring.readable_mut().await.context("wait for events")?;
        while let Some(item) = ready.get_inner_mut().next() {
            log(&item);
        }
        ready.clear_ready();
    }
}

fn log(bytes: &[u8]) {
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    match read(bytes) {
        Some(event) => log::debug!("{}", describe(&event)),
        None => log::warn!("an event of {} bytes; expected {}", bytes.len(), size_of::<Event>()),
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
    format!(
        "{what}: client {client} port {port}, VIP {}, first {}, owner {}",
        event.flow.service, event.first, event.owner
    )
}

#[cfg(test)]
mod tests {
    use steer_common::shared::{Address, FlowKey};

    use super::*;

    #[test]
    fn an_event_is_told_in_the_counters_own_word() {
        let flow = FlowKey { client: Address::from_v4([192, 0, 2, 1]), client_port: [0x30, 0x39], service: 0 };
        let event = Event { at: 0, flow, what: Counter::Rehome as u16, first: 1, owner: 2, zero: 0, zero2: 0 };
        assert_eq!(describe(&event), "rehome: client 192.0.2.1 port 12345, VIP 0, first 1, owner 2");
    }

    #[test]
    fn a_short_event_is_refused() {
        assert_eq!(read(&[0; 8]), None);
    }
}
