//! `[[bridge]]` and pools of the bridge shape: what they mean, and what they may not say.

use super::*;

const BRIDGE: &str = r#"[[bridge]]
name = "br0"
outside = ["eth1"]
inside = ["eth2", "eth3"]
vlans = "any"

[[pool]]
name = "web"
shape = "bridge"
mode = "observe"

[[pool.backend]]
address = "10.0.0.11:443"

[[pool.backend]]
address = "10.0.0.12:443"
"#;

/// The file with another line in place of its VLANs or its mode.
fn bridge(line: &str) -> String {
    BRIDGE.replace("vlans = \"any\"", line)
}

fn pool(line: &str) -> String {
    BRIDGE.replace("mode = \"observe\"", line)
}

/// The file with a VLAN of its first backend.
fn vlan(vlan: &str) -> String {
    BRIDGE.replace("11:443\"", &format!("11:443\"\nvlan = {vlan}"))
}

#[test]
fn a_bridge_needs_no_interface_and_its_ports_get_tc_alone() {
    let config = parse(BRIDGE).unwrap();
    assert_eq!(config.interfaces, []);
    let attached = config.attached().into_iter().map(|port| (port.name, port.hook));
    let tc = |name: &str| (name.to_owned(), Hook::Tc);
    assert_eq!(attached.collect::<Vec<_>>(), [tc("eth1"), tc("eth2"), tc("eth3")]);
    let [bridge] = &config.bridges[..] else { panic!("a bridge") };
    assert_eq!((&bridge.vlans, bridge.stp), (&Vlans::Any, Stp::Refused));
    let pool = &config.pools[0];
    assert!(pool.is_bridged() && config.bridged().count() == 1);
    assert_eq!((pool.mode, &pool.health, pool.swallow), (Mode::Observe, &Health::Seen, false));
    assert_eq!(pool.backends[0].vlan, 0);
    assert_eq!(parse(&super::bridge_and_router()).unwrap().attached().len(), 4);
}

#[test]
fn vlans_are_bits_and_untagged_frames_are_the_first() {
    let words = |line: &str| parse(&bridge(line)).unwrap().bridges[0].vlans.words();
    assert_eq!(words(""), [u32::MAX; 128]);
    let these = words("vlans = [4094, 0, 33, 33]");
    assert_eq!((these[0], these[1], these[127]), (1, 2, 1 << 30));
    assert_eq!(these.iter().map(|word| word.count_ones()).sum::<u32>(), 3);
    let told = "a whole number from 0 to 4094";
    refuses(&bridge("vlans = [4095]"), 5, "bridge.vlans", told);
    refuses(&bridge("vlans = [-1]"), 5, "bridge.vlans", told);
    let told = "\"any\" or a list of VLANs";
    refuses(&bridge("vlans = \"all\""), 5, "bridge.vlans", told);
    refuses(&bridge("vlans = []"), 5, "bridge.vlans", told);
}

#[test]
fn stp_is_refused_unless_it_is_watched() {
    assert_eq!(parse(&bridge("stp = \"watched\"")).unwrap().bridges[0].stp, Stp::Watched);
    refuses(&bridge("stp = \"on\""), 5, "bridge.stp", "expected `refused` or `watched`");
}

#[test]
fn a_port_is_in_one_bridge_on_one_side_and_no_interface() {
    let told = "`eth1` is outside at br0 already; expected each port once, on one side";
    refuses(&BRIDGE.replace("eth2", "eth1"), 4, "bridge.inside", told);
    let told = "`eth3` is inside at br0 already";
    refuses(&BRIDGE.replace("eth2", "eth3"), 4, "bridge.inside", told);
    let second = "\n[[bridge]]\nname = \"br1\"\noutside = [\"eth1\"]\ninside = [\"eth4\"]\n";
    let told = "`eth1` is outside at br0 already";
    refuses(&format!("{BRIDGE}{second}"), 20, "bridge.outside", told);
    let told = "`br0` stands here twice; expected each bridge once";
    refuses(&format!("{BRIDGE}{}", second.replace("br1", "br0")), 19, "bridge.name", told);
    let interface = format!("{BRIDGE}\n[[interface]]\nname = \"eth2\"\n");
    let told =
        "`eth2` is an [[interface]] already; expected no [[interface]] for the port of a bridge";
    refuses(&interface, 4, "bridge.inside", told);
    refuses(&BRIDGE.replace("eth1", "br0"), 3, "bridge.outside", "`br0` is the bridge itself");
    refuses(&BRIDGE.replace("eth1", "e/1"), 3, "bridge.outside", "is no interface name");
    refuses(&BRIDGE.replace("br0", "b 0"), 2, "bridge.name", "is no interface name");
}

#[test]
fn a_bridge_has_ports_on_either_side() {
    let told = "no port of br0 is outside; expected at least one, towards the balancer";
    refuses(&BRIDGE.replace("[\"eth1\"]", "[]"), 3, "bridge.outside", told);
    let told = "no port of br0 is inside; expected at least one, towards the servers";
    refuses(&BRIDGE.replace("[\"eth2\", \"eth3\"]", "[]"), 4, "bridge.inside", told);
    let none = BRIDGE.replace("outside = [\"eth1\"]\n", "");
    refuses(&none, 1, "bridge", "missing key; expected `outside`");
    let hook = bridge("hook = \"xdp\"");
    refuses(&hook, 5, "bridge.hook", "unknown key `hook`; expected one of `name`, `outside`");
}

#[test]
fn bridges_and_pools_of_their_shape_come_together() {
    let pool = BRIDGE.split_once("\n\n").unwrap().1;
    refuses(pool, 3, "pool.shape", "there is no [[bridge]]; expected one, with `name`, `outside`");
    let told = "nothing is served at a bridge; expected a [[pool]] with `shape = \"bridge\"`";
    let inline = BRIDGE.replace("shape = \"bridge\"", "shape = \"inline\"");
    refuses(&inline, 2, "bridge.name", told);
    let router = super::bridge_and_router().replace("[[interface]]\nname = \"eth0\"\n", "");
    refuses(&router, 1, "", "no [[interface]]; expected at least one, with `name`");
    let many = (0..17).map(|n| {
        format!("[[bridge]]\nname = \"br{n}\"\noutside = [\"o{n}\"]\ninside = [\"i{n}\"]\n")
    });
    let many = format!("{pool}{}", many.collect::<String>());
    refuses(&many, 1, "", "17 bridges; expected at most 16");
}

#[test]
fn what_a_bridge_cannot_do_is_refused_of_its_pools_with_the_reason() {
    let told = "`swallow` is not of `shape = \"bridge\"`: the bridge has";
    refuses(&pool("swallow = true"), 10, "pool.swallow", told);
    let told = "`return_path` is of [[vip]] only: answers take the way";
    refuses(&pool("return_path = \"route\""), 10, "pool.return_path", told);
    let told = "probes need an address of the gateway's own, and a bridge has none; expected \"seen\" or \"off\"";
    refuses(&pool("health = {}"), 10, "pool.health", told);
    refuses(&format!("{BRIDGE}[pool.health]\nfall = 9\n"), 17, "pool.health", told);
    let health = |text: &str| parse(text).unwrap().pools[0].health.clone();
    assert_eq!(health(&pool("health = \"off\"")), Health::Off);
    assert_eq!(health(&pool("health = {enabled = false}")), Health::Off);
    assert_eq!(health(&pool("health = \"seen\"")), Health::Seen);
    refuses(&format!("{BRIDGE}weight = 1\n"), 17, "pool.backend.weight", "`weight` is of [[vip]]");
}

#[test]
fn a_backends_vlan_is_one_of_a_bridges_and_of_no_other_shape() {
    assert_eq!(parse(&vlan("100")).unwrap().pools[0].backends[0].vlan, 100);
    for wrong in ["0", "4095"] {
        refuses(&vlan(wrong), 14, "pool.backend.vlan", "a whole number from 1 to 4094");
    }
    let listed = vlan("100").replace("\"any\"", "[0, 200]");
    let told = "100 is not in `vlans` of any [[bridge]]; expected one that is";
    refuses(&listed, 14, "pool.backend.vlan", told);
    let told = "`vlan` is of pools with `shape = \"bridge\"` only";
    let vip = GOOD.replace("11:443\"", "11:443\"\nvlan = 100").replace("weight = 3", "vlan = 3");
    refuses(&vip, 15, "vip.backend.vlan", told);
}
