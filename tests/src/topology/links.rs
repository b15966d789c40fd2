//! What joins the gateway to a client or backend: a pair of veth, or one of the interfaces that
//! gateways have.
//!
//! Whatever it is, the gateway's interface has the name that the plan gives it and the far end is
//! called `eth0`. What an interface stands on has the suffix `-wire`, or is called `wire` at the
//! far end.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use super::addresses::{mac, mac_text};
use crate::{
    netns::NetNs,
    process::{eventually, feed},
};

/// A kind of link, by what the gateway has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// One end of a veth pair.
    Veth,
    /// A VLAN interface on a veth; the far end has one, too.
    Vlan,
    /// A bridge that tells VLANs apart; the wire's frames belong to another one than 1.
    Bridge,
    /// A bond of one link, active-backup.
    Bond,
    /// A macvlan interface on a veth.
    Macvlan,
    /// A virtio NIC: these are the virtual machine's of `cargo xtask verify`.
    Nic,
    /// A VLAN interface on a virtio NIC; the far end has one, too.
    NicVlan,
    /// One end of a veth pair; the far end has an interface of this VLAN on its own: the port of a
    /// bridge that passes tags.
    Tagged(u16),
}

/// The VLAN of [`Link::Vlan`] and [`Link::NicVlan`].
const VLAN: u16 = 100;
/// The VLAN of [`Link::Bridge`], which no wire sees.
const INNER_VLAN: u16 = 10;

/// Makes link `number`, up at the gateway: `name` there, `eth0` at the far end.
pub(super) fn wire(
    kind: Link,
    number: usize,
    name: &str,
    mtu: u32,
    gateway: &NetNs,
    far: &NetNs,
) -> Result<()> {
    let near_wire = if matches!(kind, Link::Veth | Link::Nic | Link::Tagged(_)) {
        name.to_owned()
    } else {
        format!("{name}-wire")
    };
    let far_vlan = match kind {
        Link::Vlan | Link::NicVlan => Some(VLAN),
        Link::Tagged(vlan) => Some(vlan),
        _ => None,
    };
    let far_wire = if far_vlan.is_some() { "wire" } else { "eth0" };
    if matches!(kind, Link::Nic | Link::NicVlan) {
        nics(number, &near_wire, far_wire, mtu, gateway, far)?;
    } else {
        // A macvlan cannot have the address of what it stands on.
        let near_mac = mac(number, if kind == Link::Macvlan { 3 } else { 1 });
        gateway.ip(&veth(&near_wire, near_mac, far_wire, mac(number, 2), mtu, far))?;
    }
    gateway.ip(&upper(kind, &near_wire, name, number, mtu))?;
    far_vlan.map_or(Ok(()), |number| far.ip(&vlan("wire", "eth0", mtu, number)))
}

fn veth(
    near: &str,
    near_mac: [u8; 6],
    far: &str,
    far_mac: [u8; 6],
    mtu: u32,
    far_ns: &NetNs,
) -> String {
    let (near_mac, far_mac) = (mac_text(near_mac), mac_text(far_mac));
    format!(
        "link add {near} mtu {mtu} address {near_mac} type veth peer name {far} address {far_mac} netns {}\n",
        far_ns.path()
    )
}

/// What stands on the wire, if anything, and its state.
fn upper(kind: Link, wire: &str, name: &str, number: usize, mtu: u32) -> String {
    match kind {
        Link::Veth | Link::Nic | Link::Tagged(_) => format!("link set {name} up\n"),
        Link::Vlan | Link::NicVlan => vlan(wire, name, mtu, VLAN),
        Link::Bridge => format!(
            "link add {name} mtu {mtu} type bridge vlan_filtering 1 vlan_default_pvid {INNER_VLAN}\n\
             link set {wire} master {name} up\nlink set {name} up\n"
        ),
        // A link is taken while it is down, and looked at every 10 ms.
        Link::Bond => format!(
            "link add {name} mtu {mtu} type bond mode active-backup miimon 10\n\
             link set {wire} master {name}\nlink set {name} up\n"
        ),
        Link::Macvlan => format!(
            "link add {name} link {wire} mtu {mtu} address {} type macvlan mode private\n\
             link set {wire} up\nlink set {name} up\n",
            mac_text(mac(number, 1))
        ),
    }
}

fn vlan(wire: &str, name: &str, mtu: u32, number: u16) -> String {
    format!(
        "link set {wire} up\nlink add link {wire} name {name} mtu {mtu} type vlan id {number}\nlink set {name} up\n"
    )
}

/// Moves the NICs of wire `number` into their namespaces. They come back by themselves when those
/// end.
fn nics(
    number: usize,
    near: &str,
    far: &str,
    mtu: u32,
    gateway: &NetNs,
    far_ns: &NetNs,
) -> Result<()> {
    for (end, name, ns) in [(1, near, gateway), (2, far, far_ns)] {
        let address = mac_text(mac(number, end));
        let found = eventually(Duration::from_secs(5), || nic(&address));
        let found = found.with_context(|| {
            format!("there is no NIC with the address {address}: only `cargo xtask verify` has such, in its guests")
        })?;
        ip_here(&format!("link set {found} down\nlink set {found} netns {}\n", ns.path()))?;
        ns.ip(&format!("link set {found} name {name}\nlink set {name} mtu {mtu}\n"))?;
    }
    Ok(())
}

/// The interface with this address, by the namespace in which /sys was mounted: the first one.
fn nic(address: &str) -> Option<String> {
    let has_it = |link: &Path| {
        // A veth of the lab may have the same one; hardware has a device.
        link.join("device").exists()
            && fs::read_to_string(link.join("address")).is_ok_and(|text| text.trim() == address)
    };
    let links = fs::read_dir("/sys/class/net").ok()?.flatten().map(|entry| entry.path());
    let link = links.into_iter().find(|link| has_it(link))?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// A batch for `ip` in the namespace of this process.
fn ip_here(batch: &str) -> Result<()> {
    feed(Command::new("ip").args(["-batch", "-"]), batch).map(drop)
}
