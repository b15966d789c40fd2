//! Puts VIPs on an interface (`assign = true`) and takes them off again.
//!
//! An address of ours carries a protocol number of ours (`IFA_PROTO`, Linux 5.18), so nothing needs
//! to be remembered: an address that someone else put there is left alone.

use std::{collections::HashSet, net::IpAddr};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol},
};

use crate::{
    config::{Config, Vip},
    plane::ifindex,
};

/// What `ip address` shows as `proto 0x53`.
const OURS: AddressProtocol = AddressProtocol::Other(0x53);

/// Puts the VIPs that are to be assigned on their interfaces, where they are not there.
pub(super) async fn assign(config: &Config) -> Result<()> {
    let asked = asked(config);
    if asked.is_empty() {
        return Ok(());
    }
    let handle = connect()?;
    let addresses = list(&handle).await?;
    // One that cannot be had holds up no other.
    let mut failed = Ok(());
    for vip in asked {
        failed = failed.and(place(&handle, config, vip, &addresses).await);
    }
    failed
}

/// Has a VIP where it belongs: where it is missing it is added, and where this program put it on
/// another interface, because its own was not there, it moves. One that somebody else put anywhere
/// stays.
async fn place(
    handle: &Handle,
    config: &Config,
    vip: IpAddr,
    addresses: &[AddressMessage],
) -> Result<()> {
    let there = addresses.iter().filter(|message| ip_of(message) == Some(vip)).collect::<Vec<_>>();
    let Some((index, by_network)) = interface_for(config, vip, addresses) else { return Ok(()) };
    if there.iter().any(|message| message.header.index == index) {
        return Ok(());
    }
    if there.iter().any(|message| !is_ours(message)) || !there.is_empty() && !by_network {
        return Ok(());
    }
    for message in there {
        log::info!("{vip} moves from the interface with index {} to {index}", message.header.index);
        handle
            .address()
            .del(message.clone())
            .execute()
            .await
            .with_context(|| format!("take {vip} off its interface"))?;
    }
    add(handle, index, vip).await
}

/// Takes off what this gateway assigned and the configuration does not want assigned any more.
/// `known` is what it has as VIPs so far.
pub(super) async fn withdraw(
    config: &Config,
    known: impl IntoIterator<Item = IpAddr>,
) -> Result<()> {
    let asked = asked(config);
    let unasked = known.into_iter().filter(|ip| !asked.contains(ip)).collect::<HashSet<_>>();
    if !unasked.is_empty() {
        unassign(&unasked).await?;
    }
    Ok(())
}

fn asked(config: &Config) -> HashSet<IpAddr> {
    let assigned = config.vips().filter(|vip| vip.assign);
    assigned.flat_map(Vip::addresses).map(|address| address.ip()).collect()
}

/// Takes every VIP in `known` that this program assigned off its interface; returns those it found.
pub(crate) async fn unassign(known: &HashSet<IpAddr>) -> Result<Vec<IpAddr>> {
    let handle = connect()?;
    let addresses = list(&handle).await?;
    remove(&handle, addresses, known).await
}

fn connect() -> Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn list(handle: &Handle) -> Result<Vec<AddressMessage>> {
    handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .context("list the addresses of the interfaces")
}

async fn remove(
    handle: &Handle,
    addresses: Vec<AddressMessage>,
    known: &HashSet<IpAddr>,
) -> Result<Vec<IpAddr>> {
    let mut removed = Vec::new();
    for message in addresses.into_iter().filter(is_ours) {
        let Some(ip) = ip_of(&message).filter(|ip| known.contains(ip)) else { continue };
        handle
            .address()
            .del(message)
            .execute()
            .await
            .with_context(|| format!("take {ip} off its interface"))?;
        removed.push(ip);
    }
    Ok(removed)
}

async fn add(handle: &Handle, index: u32, ip: IpAddr) -> Result<()> {
    let mut request = handle.address().add(index, ip, if ip.is_ipv4() { 32 } else { 128 });
    let attributes = &mut request.message_mut().attributes;
    attributes.push(AddressAttribute::Protocol(OURS));
    if ip.is_ipv6() {
        // Two gateways may hold the address for a moment: detecting duplicates would take it off
        // both.
        attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    log::info!("assigning {ip} to the interface with index {index}");
    request.execute().await.with_context(|| format!("assign {ip}"))
}

/// The managed interface whose network the VIP is in (`true`), else the first of the configuration:
/// there its neighbours ask for it. While that one is away, none.
fn interface_for(
    config: &Config,
    vip: IpAddr,
    addresses: &[AddressMessage],
) -> Option<(u32, bool)> {
    let managed =
        config.interfaces.iter().map(|interface| ifindex(&interface.name)).collect::<Vec<_>>();
    let networks = addresses.iter().filter(|address| ip_of(address) != Some(vip));
    let contains = |index: &u32| {
        networks.clone().any(|a| a.header.index == *index && network_contains(a, vip))
    };
    match managed.iter().flatten().copied().find(contains) {
        Some(index) => Some((index, true)),
        None => managed.first().copied().flatten().map(|index| (index, false)),
    }
}

fn network_contains(message: &AddressMessage, ip: IpAddr) -> bool {
    let shift = |bits: u32| bits.saturating_sub(message.header.prefix_len.into());
    match (ip_of(message), ip) {
        (Some(IpAddr::V4(a)), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0
        }
        (Some(IpAddr::V6(a)), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0
        }
        (Some(_) | None, _) => false,
    }
}

fn ip_of(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })
}

fn is_ours(message: &AddressMessage) -> bool {
    message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, AddressAttribute::Protocol(proto) if *proto == OURS))
}
