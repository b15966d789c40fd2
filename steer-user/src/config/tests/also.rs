//! `also`: several VIPs that share one pool.

use super::*;

/// The VIP of the good file with further addresses in place of its timeout, at line 8.
fn with(also: &str) -> String {
    GOOD.replace("session_timeout = \"10m\"", &format!("also = {also}"))
}

#[test]
fn several_vips_share_a_pool() {
    let config = parse(&with("[\"198.51.100.11:443\", \"198.51.100.10:8443\"]")).unwrap();
    let pool = &config.pools[0];
    assert_eq!(pool.service().to_string(), "198.51.100.10:443", "known by the first");
    let addresses = config.addresses().map(|at| at.to_string()).collect::<Vec<_>>();
    assert_eq!(addresses, ["198.51.100.10:443", "198.51.100.11:443", "198.51.100.10:8443"]);
    assert_eq!(config.pools.len(), 1);
    assert_eq!(config.counts(), format!("VIPs 3, backends {}", pool.backends.len()));
    assert!(parse(&with("[]")).unwrap().pools[0].vip().unwrap().also.is_empty());
}

#[test]
fn an_address_is_one_vip_of_one_pool_only() {
    let told =
        "198.51.100.10:443 is already a VIP; expected an address and port of one VIP or pool only";
    refuses(&with("[\"198.51.100.10:443\"]"), 8, "vip.also", told);
    let told = "198.51.100.11:443 is already a VIP";
    refuses(&with("[\"198.51.100.11:443\", \"198.51.100.11:443\"]"), 8, "vip.also", told);
    let other =
        "\n[[vip]]\naddress = \"198.51.100.11:443\"\n[[vip.backend]]\naddress = \"10.9.0.1:443\"\n";
    let both = with("[\"198.51.100.11:443\"]") + other;
    let error = parse(&both).unwrap_err().to_string();
    assert!(error.contains("198.51.100.11:443 is already a VIP"), "{error}");
    let backend = parse(GOOD).unwrap().pools[0].backends[0].address;
    let error = parse(&with(&format!("[\"{backend}\"]"))).unwrap_err().to_string();
    assert!(error.contains(&format!("{backend} is already a VIP")), "{error}");
}

#[test]
fn what_is_no_further_vip_is_refused_with_the_reason() {
    let told = "[2001:db8::11]:443 beside 198.51.100.10:443: families do not mix";
    refuses(&with("[\"[2001:db8::11]:443\"]"), 8, "vip.also", told);
    refuses(&with("[\"127.0.0.1:443\"]"), 8, "vip.also", "loopback");
    refuses(&with("[\"web\"]"), 8, "vip.also", "`web` is no socket address");
    refuses(&with("\"198.51.100.11:443\""), 8, "vip.also", "expected a list");
    let many = (0..64).map(|n| format!("\"198.51.101.{n}:443\"")).collect::<Vec<_>>();
    let told = "64 in also; expected at most 63 in all VIPs";
    refuses(&with(&format!("[{}]", many.join(", "))), 1, "", told);
    parse(&with(&format!("[{}]", many[1..].join(", ")))).unwrap();
}
