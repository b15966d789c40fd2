//! What the network must do for pools without a VIP, for `steer config check`: nothing is touched
//! that could do it.

use crate::config::{Bridge, Config, Mode, Pool};

/// Backends that are named one by one; the rest is counted.
const NAMED: usize = 3;

/// One sentence or two for each such pool, and one for each bridge.
pub(super) fn needs(config: &Config) -> Vec<String> {
    let pools = config.pools.iter().filter(|pool| pool.inline().is_some()).flat_map(of);
    pools.chain(config.bridges.iter().map(link_local)).collect()
}

/// A bridge keeps to itself what is sent to addresses that no bridge forwards (IEEE 802.1D 7.12.6);
/// Linux lets LACP and LLDP pass a port that is told to.
fn link_local(bridge: &Bridge) -> String {
    let ports = bridge.ports().map(|(port, _)| port).collect::<Vec<_>>().join(", ");
    format!(
        "bridge {}: LACP and LLDP do not pass a bridge unless its ports are told so: where they are to pass, `ip link set PORT \
         type bridge_slave group_fwd_mask 0x400c` for each of {ports}",
        bridge.name
    )
}

fn of(pool: &Pool) -> impl Iterator<Item = String> + use<> {
    let title = pool.service().titled();
    let routes = match pool.is_bridged() {
        false => format!(
            "{title}: the network needs one route: the balancer's way to {} by this gateway, and the servers' way back by \
             it, too; nothing else changes",
            backends(pool)
        ),
        true => format!(
            "{title}: the network needs nothing: balancer and servers keep their addresses and routes, if all frames between the \
             balancer and {} pass the bridge",
            backends(pool)
        ),
    };
    let observed = (pool.mode == Mode::Observe).then(|| {
        format!(
            "{title}: mode is \"observe\": sessions are learned and counted, and no connection is moved; \"steer\" moves them"
        )
    });
    [Some(routes), observed].into_iter().flatten()
}

fn backends(pool: &Pool) -> String {
    let addresses = pool.backends.iter().map(|backend| backend.address.ip().to_string());
    let named = addresses.take(NAMED).collect::<Vec<_>>().join(", ");
    match pool.backends.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn said(n_backends: u8, mode: &str) -> Vec<String> {
        let backends = (1..=n_backends)
            .map(|n| format!("[[pool.backend]]\naddress = \"10.0.0.{n}:443\"\n"))
            .collect::<String>();
        let text = format!(
            "[[interface]]\nname = \"eth0\"\n[[vip]]\naddress = \"192.0.2.10:443\"\n[[vip.backend]]\n\
             address = \"10.0.1.1:443\"\n[[pool]]\nname = \"web\"\nshape = \"inline\"\nmode = \"{mode}\"\n{backends}"
        );
        needs(&Config::parse(Path::new("steer.toml"), &text).unwrap())
    }

    #[test]
    fn an_inline_pool_says_which_route_it_needs_and_that_it_only_observes() {
        let [route, observed] = &said(2, "observe")[..] else { panic!("two sentences") };
        assert!(route.starts_with(
            "pool web: the network needs one route: the balancer's way to 10.0.0.1, 10.0.0.2 by"
        ));
        assert!(observed.starts_with("pool web: mode is \"observe\""), "{observed}");
        let [route] = &said(5, "steer")[..] else { panic!("one sentence") };
        assert!(route.contains("to 10.0.0.1, 10.0.0.2, 10.0.0.3 and 2 more by"), "{route}");
    }
    #[test]
    fn a_bridged_pool_needs_nothing_and_its_bridge_says_how_lacp_passes() {
        let text = "[[bridge]]\nname = \"br0\"\noutside = [\"p0\"]\ninside = [\"p1\"]\n[[pool]]\nname = \"web\"\n\
                    shape = \"bridge\"\nmode = \"steer\"\n[[pool.backend]]\naddress = \"10.0.0.1:443\"\n";
        let said = needs(&Config::parse(Path::new("steer.toml"), text).unwrap());
        let [nothing, hint] = &said[..] else { panic!("two sentences: {said:?}") };
        assert!(nothing.starts_with("pool web: the network needs nothing: "), "{nothing}");
        assert!(hint.ends_with("group_fwd_mask 0x400c` for each of p0, p1"), "{hint}");
    }
}
