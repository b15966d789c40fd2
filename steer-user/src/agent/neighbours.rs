//! Has the kernel confirm the neighbours that backends are reached by.
//!
//! `bpf_fib_lookup` takes a neighbour that was not heard of for long (STALE) as it is, and nothing
//! that the programs send makes the kernel probe it: a router or backend that changed its MAC
//! address without a word would be lost for good.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
};
use steer_common::shared::BACKEND_PRESENT;
use tokio::time;

use crate::plane::Plane;

/// Time between two rounds: with five seconds of grace and three probes the kernel knows within the
/// minute.
const ROUND: Duration = Duration::from_secs(30);

/// A next hop: interface and MAC address.
type Station = (u32, [u8; 6]);

/// Asks for ever; what fails is logged and tried again.
pub(super) async fn run(plane: Plane) -> Result<()> {
    loop {
        time::sleep(ROUND).await;
        match confirm(&plane).await {
            Ok(asked) => log::debug!("asked the kernel to confirm {asked} neighbours"),
            Err(error) => log::warn!("have neighbours confirmed: {error:#}"),
        }
    }
}

/// Has every stale neighbour probed that leads to a backend; how many.
async fn confirm(plane: &Plane) -> Result<usize> {
    let mut stations = HashSet::new();
    for (id, backend) in plane.backends()? {
        let hop = plane.backend_path(id)?.hop;
        if backend.flags & BACKEND_PRESENT != 0 && hop.ifindex != 0 {
            let [a, b, c, d, e, f, ..] = hop.ethernet;
            stations.insert((hop.ifindex, [a, b, c, d, e, f]));
        }
    }
    if stations.is_empty() {
        return Ok(0);
    }
    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
    tokio::spawn(connection);
    probe_stale(&handle, &stations).await
}

async fn probe_stale(handle: &Handle, stations: &HashSet<Station>) -> Result<usize> {
    let known: Vec<NeighbourMessage> =
        handle.neighbours().get().execute().try_collect().await.context("list the neighbours")?;
    let mut asked = 0;
    for neighbour in known.iter().filter(|neighbour| is_stale(neighbour, stations)) {
        let Some(address) = address(neighbour) else { continue };
        let request = handle.neighbours().add(neighbour.header.ifindex, address).replace();
        // With NTF_USE the kernel takes state and MAC address as they are, and begins to confirm
        // them.
        let request = request.flags(NeighbourFlags::Use).state(NeighbourState::None);
        request.execute().await.with_context(|| format!("have {address} confirmed"))?;
        asked += 1;
    }
    Ok(asked)
}

fn is_stale(neighbour: &NeighbourMessage, stations: &HashSet<Station>) -> bool {
    let at = neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(&bytes[..]).ok(),
        _ => None,
    });
    neighbour.header.state == NeighbourState::Stale
        && at.is_some_and(|at| stations.contains(&(neighbour.header.ifindex, at)))
}

fn address(neighbour: &NeighbourMessage) -> Option<std::net::IpAddr> {
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(state: NeighbourState, ifindex: u32, last: u8) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        (message.header.state, message.header.ifindex) = (state, ifindex);
        message.attributes = vec![
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last]),
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, last].into())),
        ];
        message
    }

    #[test]
    fn only_stale_neighbours_that_lead_to_a_backend_are_asked_for() {
        let stations = HashSet::from([(3, [2, 0, 0, 0, 0, 9])]);
        assert!(is_stale(&neighbour(NeighbourState::Stale, 3, 9), &stations));
        for (state, ifindex, last) in [
            (NeighbourState::Reachable, 3, 9),
            (NeighbourState::Permanent, 3, 9),
            (NeighbourState::Stale, 4, 9),
            (NeighbourState::Stale, 3, 8),
        ] {
            assert!(!is_stale(&neighbour(state, ifindex, last), &stations));
        }
        assert_eq!(address(&neighbour(NeighbourState::Stale, 3, 9)), Some([10, 0, 0, 9].into()));
    }
}
