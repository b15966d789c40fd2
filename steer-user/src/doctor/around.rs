//! Settings of the kernel's network, and policies of IPsec.

use super::{Findings, routed, texts};
use crate::{
    agent::checks::{self, Machine},
    config::{Config, Pool},
    plane,
};

pub(super) async fn look(findings: &mut Findings, config: &Config) {
    let addresses = routed(config);
    let machine = Machine {
        interfaces: config.interfaces.iter().map(|interface| interface.name.clone()).collect(),
        both_sides: one_arm(config),
        addresses: addresses.iter().copied().collect(),
    };
    let good = "forwarding, rp_filter and send_redirects are as a gateway needs them";
    findings.warnings("sysctl", texts(checks::machine(&machine)), good);
    match checks::policies(&addresses).await {
        Ok(found) => {
            findings.warnings("ipsec", texts(found), "no policy covers a VIP or a backend")
        }
        Err(error) => findings.warn("ipsec", format!("{error:#}")),
    }
    if !config.bridges.is_empty() {
        let members = config.bridged().flat_map(|pool: &Pool| &pool.backends);
        let members = members.map(|backend| backend.address.ip()).collect::<Vec<_>>();
        match plane::link_messages() {
            Ok(links) => {
                let found = checks::bridges(&config.bridges, &links, &members);
                findings.warnings("bridges", texts(found), "every bridge and port can be used");
            }
            Err(error) => findings.warn("bridges", format!("{error:#}")),
        }
    }
}

/// With one interface clients and backends are both there.
fn one_arm(config: &Config) -> Vec<String> {
    match &config.interfaces[..] {
        [only] => vec![only.name.clone()],
        _ => Vec::new(),
    }
}
