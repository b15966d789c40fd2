//! Backends whose neighbour the kernel could not find.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::{Findings, routed};
use crate::config::Config;

pub(super) async fn look(findings: &mut Findings, config: &Config) {
    match failed().await {
        Ok(failed) => {
            let lost = routed(config).into_iter().filter(|address| failed.contains(address));
            let texts = lost.map(|address| {
                format!("{address} does not answer ARP or neighbour discovery: look at its cable, VLAN and address")
            });
            findings.warnings("neighbours", texts, "no backend is looked for in vain");
        }
        Err(error) => findings.warn("neighbours", format!("{error:#}")),
    }
}

/// The neighbours that the kernel asked for and that did not answer.
async fn failed() -> Result<BTreeSet<IpAddr>> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
    tokio::spawn(connection);
    let known: Vec<NeighbourMessage> =
        handle.neighbours().get().execute().try_collect().await.context("list the neighbours")?;
    let failed = known.iter().filter(|one| one.header.state == NeighbourState::Failed);
    Ok(failed.filter_map(address).collect())
}

fn address(neighbour: &NeighbourMessage) -> Option<IpAddr> {
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}
