//! The lab's links, addresses and routes as batches for `ip`.

use super::{
    BRIDGE, CLIENT_SIDE, Link, Plan,
    addresses::{OUTSIDE, OUTSIDE_LINK, backend_net, backend_side, mac, mac_text},
};

pub(super) fn client(plan: &Plan) -> String {
    let gate = if plan.balancer { OUTSIDE_LINK } else { 0 };
    "addr add 10.1.0.2/24 dev eth0\n\
     addr add fd00:1::2/64 dev eth0 nodad\n\
     route add default via 10.1.0.1\n\
     route add ::/0 via fd00:1::1\n\
     route add local 10.64.0.0/24 dev lo\n\
     route add local fd00:64::/64 dev lo\n"
        .to_owned()
        + &neighbour(plan, "10.1.0.1", "fd00:1::1", mac(gate, 1), "eth0")
}

/// Towards the clients as the gateway is where no balancer stands in between. Behind a bridge the
/// backends are its neighbours.
pub(super) fn balancer(plan: &Plan) -> String {
    let own = towards_clients(plan, OUTSIDE, mac(OUTSIDE_LINK, 2))
        + "addr add 10.3.0.2/24 dev eth0\n\
           addr add fd00:3::2/64 dev eth0 nodad\n";
    if !plan.bridge {
        return own
            + "route add 10.2.0.0/16 via 10.3.0.1\n\
               route add fd00:2::/32 via fd00:3::1\n"
            + &neighbour(plan, "10.3.0.1", "fd00:3::1", mac(0, 1), "eth0");
    }
    (0..plan.n_backends).fold(own, |batch, index| {
        let (v4, v6) = backend_net(index, 2);
        let (mac, (v4, v6)) = (mac(index + 1, 2), (v4.to_string(), v6.to_string()));
        let (made, out) = match plan.links.iter().find(|(link, _)| *link == index + 1) {
            Some((_, Link::Tagged(vlan))) => (
                format!(
                    "link add link eth0 name vlan{vlan} type vlan id {vlan}\nlink set vlan{vlan} up\n"
                ),
                format!("vlan{vlan}"),
            ),
            _ => (String::new(), "eth0".to_owned()),
        };
        batch
            + &made
            + &format!("route add {v4}/32 dev {out}\nroute add {v6}/128 dev {out}\n")
            + &neighbour(plan, &v4, &v6, mac, &out)
    })
}

/// The bridge that the gateway is: it has no addresses.
pub(super) fn bridge(ports: &[String]) -> String {
    let made = format!("link add {BRIDGE} type bridge\nlink set {BRIDGE} up\n");
    ports.iter().fold(made, |batch, port| batch + &format!("link set {port} master {BRIDGE}\n"))
}

fn towards_clients(plan: &Plan, interface: &str, client: [u8; 6]) -> String {
    format!(
        "addr add 10.1.0.1/24 dev {interface}\n\
         addr add fd00:1::1/64 dev {interface} nodad\n\
         route add 10.64.0.0/24 via 10.1.0.2\n\
         route add fd00:64::/64 via fd00:1::2\n"
    ) + &neighbour(plan, "10.1.0.2", "fd00:1::2", client, interface)
}

pub(super) fn gateway(plan: &Plan) -> String {
    let mut batch = if plan.balancer {
        "addr add 10.3.0.1/24 dev clients\n\
         addr add fd00:3::1/64 dev clients nodad\n\
         route add default via 10.3.0.2\n\
         route add ::/0 via fd00:3::2\n"
            .to_owned()
            + &neighbour(plan, "10.3.0.2", "fd00:3::2", mac(0, 2), CLIENT_SIDE)
    } else {
        towards_clients(plan, CLIENT_SIDE, mac(0, 2))
    };
    for index in 0..plan.n_backends {
        let ((near4, near6), (far4, far6)) = (backend_net(index, 1), backend_net(index, 2));
        let name = backend_side(index);
        batch += &format!("addr add {near4}/24 dev {name}\naddr add {near6}/64 dev {name} nodad\n");
        batch += &neighbour(plan, &far4.to_string(), &far6.to_string(), mac(index + 1, 2), &name);
    }
    batch
}

pub(super) fn backend(index: usize, plan: &Plan) -> String {
    let gate = if plan.bridge { mac(0, 2) } else { mac(index + 1, 1) };
    let ((near4, near6), (far4, far6)) = (backend_net(index, 1), backend_net(index, 2));
    format!(
        "addr add {far4}/24 dev eth0\naddr add {far6}/64 dev eth0 nodad\n\
         route add default via {near4}\nroute add ::/0 via {near6}\n"
    ) + &neighbour(plan, &near4.to_string(), &near6.to_string(), gate, "eth0")
}

fn neighbour(plan: &Plan, v4: &str, v6: &str, mac: [u8; 6], interface: &str) -> String {
    if !plan.neighbours_known {
        return String::new();
    }
    let mac = mac_text(mac);
    format!(
        "neigh replace {v4} lladdr {mac} dev {interface} nud permanent\n\
         neigh replace {v6} lladdr {mac} dev {interface} nud permanent\n"
    )
}
