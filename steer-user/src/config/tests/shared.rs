//! Several VIPs that share one pool.

use super::*;

/// A pool and what stands behind it.
fn with(more: &str) -> String {
    format!(
        "[[interface]]\nname = \"eth0\"\n[[pool]]\nname = \"web\"\nowner_tries = 2\n\
         [[pool.backend]]\naddress = \"10.0.0.11:443\"\n{more}"
    )
}

/// A VIP that names the pool, three lines of the file.
fn vip(address: &str) -> String {
    format!("[[vip]]\naddress = \"{address}\"\npool = \"web\"\n")
}

#[test]
fn several_vips_share_a_pool() {
    let vips = ["198.51.100.10:443", "198.51.100.11:443", "198.51.100.10:8443"];
    for shape in ["", "[pool.health]\ninterval = \"9s\"\n"] {
        let text = with(&(shape.to_owned() + &vips.map(vip).concat()));
        let config = parse(&text).unwrap();
        let [pool] = &config.pools[..] else { panic!("one pool: {:?}", config.pools) };
        assert_eq!(pool.service().to_string(), vips[0], "known by the first");
        assert_eq!(pool.owner_tries, 2);
        assert_eq!(pool.mode, Mode::Steer);
        let addresses = config.addresses().map(|at| at.to_string()).collect::<Vec<_>>();
        assert_eq!(addresses, vips);
        assert_eq!(config.counts(), "VIPs 3, backends 1");
    }
    let told = with(&vip(vips[0])).replace("owner_tries = 2", "shape = \"gateway\"");
    assert!(parse(&told).unwrap().pools[0].vip().unwrap().also.is_empty());
}

#[test]
fn an_address_is_one_vip_of_one_pool_only() {
    let both = vip("198.51.100.10:443") + &vip("198.51.100.10:443");
    let told =
        "198.51.100.10:443 is already a VIP; expected an address and port of one VIP or pool only";
    refuses(&with(&both), 12, "vip.address", told);
    refuses(&with(&vip("10.0.0.11:443")), 7, "pool.backend.address", "is already a VIP");
}

#[test]
fn what_is_no_pool_of_vips_is_refused_with_the_reason() {
    let first = vip("198.51.100.10:443");
    let other = first.clone() + &vip("198.51.100.11:443").replace("web", "app");
    refuses(&with(&other), 13, "vip.pool", "there is no [[pool]] named `app`");
    let nobody = "no [[vip]] has `pool = \"web\"`; expected one, or `shape = \"inline\"`";
    refuses(&with(""), 4, "pool.name", nobody);
    let inline = with(&first).replace("owner_tries = 2", "shape = \"inline\"");
    refuses(&inline, 10, "vip.pool", "`web` has a `shape` in which no VIP leads to it");
    let mixed = first.clone() + &vip("[2001:db8::11]:443");
    let told = "[2001:db8::11]:443 beside 198.51.100.10:443: families do not mix";
    refuses(&with(&mixed), 12, "vip.address", told);
    let many = (0..64).map(|n| vip(&format!("198.51.101.{n}:443"))).collect::<String>();
    let told = "64 VIPs beside the first of their pools; expected at most 63 in all pools";
    refuses(&with(&(first + &many)), 1, "", told);
    parse(&with(&many)).unwrap();
}

#[test]
fn a_vip_that_names_a_pool_has_no_settings_of_its_own() {
    let first = vip("198.51.100.10:443");
    let why = "of the [[pool]] that this VIP names; expected it there";
    for line in [
        "session_timeout = \"9m\"",
        "session_limit = \"9h\"",
        "flow_timeout = \"9h\"",
        "key_name_timeout = \"9h\"",
        "fallback = \"flow\"",
        "swallow = true",
        "assign = true",
        "return_path = \"route\"",
        "health = \"off\"",
    ] {
        let key = line.split(' ').next().unwrap();
        let told = format!("`{key}` is {why}");
        refuses(&with(&format!("{first}{line}\n")), 11, &format!("vip.{key}"), &told);
    }
    for line in [
        "mode = \"observe\"",
        "ticket_key_name = \"auto\"",
        "owner_tries = 9",
        "sessions_per_source = 9",
        "learn_without_certificate = true",
        "[[vip.backend]]\naddress = \"10.0.0.12:443\"",
    ] {
        let told = "it names a `pool`; expected no key beside but `address`";
        refuses(&with(&format!("{first}{line}\n")), 9, "vip.address", told);
    }
    for line in ["address = \"198.51.100.9:443\"", "exempt = []"] {
        let key = line.split(' ').next().unwrap();
        let text = with(&first).replace("owner_tries = 2", line);
        refuses(&text, 5, &format!("pool.{key}"), &format!("`{key}` is of "));
    }
}
