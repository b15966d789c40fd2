//! What the configuration says otherwise than the one before it, for the log and for `steer config
//! check`.

use std::collections::HashMap;

use steer_common::shared::{Configured, Endpoint};

use crate::{
    address::{endpoint, socket},
    config::{Config, Pool},
    plane::Before,
    service::Service,
};

/// A sentence for each VIP and backend that comes, goes, or gets another weight; none where nothing
/// was pinned.
pub(super) fn changes(config: &Config, before: &Before) -> Vec<String> {
    let vips = config.pools.iter().map(|pool| pool.service().endpoint()).collect::<Vec<_>>();
    let titled = |at: &Endpoint| Service::of(at).titled();
    let new = vips.iter().filter(|at| !before.vips.iter().any(|(there, _)| there == *at));
    let gone = before.vips.iter().map(|(at, _)| at).filter(|at| !vips.contains(at));
    let mut said = new.map(|at| format!("the {} is new", titled(at))).collect::<Vec<_>>();
    said.extend(gone.map(|at| format!("the {} is not configured any more", titled(at))));
    let sharing =
        |at: &Endpoint| before.entrances.iter().any(|(_, entrance)| entrance.endpoint == *at);
    for pool in &config.pools {
        let also = pool.vip().into_iter().flat_map(|vip| &vip.also);
        said.extend(also.filter(|at| !sharing(&endpoint(**at))).map(|at| {
            format!("the VIP {at} shares the pool of {}: it is new there", pool.service())
        }));
    }
    let addresses = config.addresses().map(endpoint).collect::<Vec<_>>();
    let left = before.entrances.iter().map(|(_, entrance)| entrance.endpoint);
    let left = left.filter(|at| !addresses.contains(at));
    said.extend(left.map(|at| format!("the {} is not configured any more", titled(&at))));
    said.extend(backends(&wanted(config), &before.configured.iter().copied().collect()));
    said
}

fn wanted(config: &Config) -> HashMap<Endpoint, Configured> {
    let of = |pool: &Pool| {
        let at = pool.service().endpoint();
        let backends = pool.backends.iter();
        backends
            .map(move |b| (endpoint(b.address), Configured { vip: at, weight: b.weight.into() }))
            .collect::<Vec<_>>()
    };
    config.pools.iter().flat_map(of).collect()
}

fn backends(
    wanted: &HashMap<Endpoint, Configured>,
    before: &HashMap<Endpoint, Configured>,
) -> Vec<String> {
    let change = |(at, now): (&Endpoint, &Configured)| {
        let (backend, vip) = (socket(at), Service::of(&now.vip));
        Some(match before.get(at) {
            None => format!("the backend {backend} of {vip} is new"),
            Some(old) if old.vip != now.vip => {
                format!("the backend {backend} goes from {} to {vip}", Service::of(&old.vip))
            }
            Some(old) if old.weight != now.weight => {
                format!(
                    "the backend {backend} of {vip} has the weight {}; it was {}",
                    now.weight, old.weight
                )
            }
            Some(_) => return None,
        })
    };
    let gone = before.iter().filter(|(at, _)| !wanted.contains_key(at));
    let gone = gone.map(|(at, old)| {
        format!(
            "the backend {} of {} is not configured any more",
            socket(at),
            Service::of(&old.vip)
        )
    });
    let mut said = wanted.iter().filter_map(change).chain(gone).collect::<Vec<_>>();
    said.sort_unstable();
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(backends: &[(&str, u32)]) -> HashMap<Endpoint, Configured> {
        let vip = endpoint("198.51.100.10:443".parse().unwrap());
        let backend = |(at, weight): &(&str, u32)| {
            (endpoint(at.parse().unwrap()), Configured { vip, weight: *weight })
        };
        backends.iter().map(backend).collect()
    }

    #[test]
    fn backends_that_come_go_or_weigh_something_else_are_named() {
        let before = pool(&[("10.0.0.1:443", 1), ("10.0.0.2:443", 1), ("10.0.0.3:443", 1)]);
        let now = pool(&[("10.0.0.1:443", 1), ("10.0.0.2:443", 3), ("10.0.0.4:443", 1)]);
        let said = [
            "the backend 10.0.0.2:443 of 198.51.100.10:443 has the weight 3; it was 1",
            "the backend 10.0.0.3:443 of 198.51.100.10:443 is not configured any more",
            "the backend 10.0.0.4:443 of 198.51.100.10:443 is new",
        ];
        assert_eq!(backends(&now, &before), said);
        assert!(backends(&now, &now).is_empty());
    }
}
