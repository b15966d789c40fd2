//! What deserves a look before a start, as sentences.

use std::{
    collections::HashSet,
    fmt,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
};

use steer_common::maps::{Kind, MAPS};

use super::{Found, numbers::served};
use crate::{
    address::is_own,
    config::{Config, Pool, Sizes, Vip},
    control::refuse_file_in_place,
    plane::{self, PinDir},
    service::Service,
};

/// Tables that the file wants smaller than the running kernel can share out among the CPUs.
pub(super) fn raised_sizes(sizes: &Sizes, least: u32) -> Vec<String> {
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
pub(super) fn elsewhere(config: &Config, dir: &PinDir) -> Vec<String> {
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
pub(super) fn own_backends(config: &Config) -> Vec<String> {
    let assigned = |ip| {
        let mut assigned = config.vips().filter(|vip| vip.assign).flat_map(Vip::addresses);
        assigned.any(|at| at.ip() == ip)
    };
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
pub(super) fn lonely(config: &Config) -> Vec<String> {
    let inline = config.pools.iter().filter(|pool| pool.inline().is_some());
    let lonely = inline.filter(|pool| pool.backends.len() == 1);
    let warning = |pool: &Pool| {
        let of = pool.service().titled();
        format!("{of} has one backend: there is no other that a connection could be moved to")
    };
    lonely.map(warning).collect()
}

pub(super) fn warnings(config: &Config, dir: &PinDir, found: &Found) -> Vec<String> {
    let interfaces = config.attached();
    let names = interfaces.iter().map(|interface| interface.name.as_str());
    // A start without the port of a bridge is refused.
    let missing = config.interfaces.iter().map(|interface| interface.name.as_str());
    let missing = missing.filter(|name| plane::ifindex(name).is_none());
    let mut warnings: Vec<_> =
        missing.map(|name| format!("there is no interface {name}: it is waited for")).collect();
    let vips = config.addresses().collect::<Vec<SocketAddr>>();
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

    #[test]
    fn tables_that_the_kernel_needs_larger_than_the_file_says_are_told() {
        let sizes = Sizes { pending: 64, splices: 1, ..Sizes::default() };
        let told = "[sizes] pending = 64: the table gets 2304 entries, which Linux before 6.17 needs on so many CPUs";
        assert_eq!(raised_sizes(&sizes, 2304), [told]);
        assert!(raised_sizes(&sizes, 1).is_empty());
        assert!(raised_sizes(&Sizes::default(), 2304).is_empty());
    }
}
