//! `[[pool]]`: what it means, and what it may not say.

use super::*;

const POOL: &str = r#"[[interface]]
name = "eth0"

[[pool]]
name = "web"
shape = "inline"
session_timeout = "10m"

[[pool.backend]]
address = "10.0.0.11:443"

[[pool.backend]]
address = "10.0.0.12:443"
"#;

/// The pool with another line in place of its timeout.
fn with(line: &str) -> String {
    POOL.replace("session_timeout = \"10m\"", line)
}

#[test]
fn a_short_pool_is_observed_and_judged_by_what_passes() {
    let config = parse(POOL).unwrap();
    let pool = &config.pools[0];
    assert_eq!(pool.service().to_string(), "web");
    assert_eq!((pool.mode, &pool.health), (Mode::Observe, &Health::Seen));
    assert_eq!(pool.inline().unwrap().exempt, []);
    assert!(pool.vip().is_none() && config.vips().next().is_none());
    let backends = pool.backends.iter().map(|b| (b.address.to_string(), b.weight));
    assert_eq!(
        backends.collect::<Vec<_>>(),
        [("10.0.0.11:443".to_owned(), 1), ("10.0.0.12:443".to_owned(), 1)]
    );
    assert_eq!(config.counts(), "VIPs 0, pools 1, backends 2");
}

#[test]
fn a_pool_has_the_settings_of_a_vip() {
    let lines = "mode = \"steer\"\nsession_timeout = 7\nsession_limit = 8\nflow_timeout = 9\n\
                 ticket_key_name = \"4@0\"\nkey_name_timeout = 10\nlearn_without_certificate = true\n\
                 sessions_per_source = 11\nowner_tries = 12\nswallow = true";
    let pool = parse(&with(lines)).unwrap().pools.remove(0);
    let seconds = Duration::from_secs;
    assert_eq!((pool.mode, pool.swallow), (Mode::Steer, true));
    assert_eq!((pool.session_timeout, pool.session_limit), (seconds(7), seconds(8)));
    assert_eq!((pool.flow_timeout, pool.key_name_timeout), (seconds(9), seconds(10)));
    assert_eq!(pool.ticket_key_name, TicketKeyName::At(NameLayout { at: 0, len: 4 }));
    assert!(pool.learn_without_certificate);
    assert_eq!((pool.sessions_per_source, pool.owner_tries), (11, 12));
}

#[test]
fn vips_and_pools_stand_side_by_side() {
    let both =
        POOL.to_owned() + &GOOD.replace("metrics = \"127.0.0.1:9464\"", "").replace("eth0", "eth1");
    let config = parse(&both).unwrap();
    let services = config.pools.iter().map(|pool| pool.service().to_string()).collect::<Vec<_>>();
    assert_eq!(services, ["198.51.100.10:443", "web"]);
    assert_eq!(config.counts(), "VIPs 1, pools 1, backends 4");
}

#[test]
fn a_file_that_serves_nothing_is_refused() {
    refuses("[[interface]]\nname = \"eth0\"\n", 1, "", "no [[vip]] and no [[pool]]");
}

#[test]
fn a_pool_needs_a_name_a_shape_and_backends() {
    refuses(&POOL.replace("name = \"web\"\n", ""), 4, "pool", "missing key; expected `name`");
    refuses(
        &POOL.replace("shape = \"inline\"\n", ""),
        5,
        "pool.name",
        "no [[vip]] has `pool = \"web\"`; expected one, or `shape = \"inline\"` or `shape = \"bridge\"`",
    );
    let told = "`router`, expected one of `gateway`, `inline`, `bridge`";
    refuses(&POOL.replace("\"inline\"", "\"router\""), 6, "pool.shape", told);
    let none = POOL.split("\n[[pool.backend]]").next().unwrap();
    refuses(none, 5, "pool.name", "web has no [[pool.backend]]; expected at least one");
}

#[test]
fn a_pools_name_is_short_plain_and_no_address() {
    for name in ["", "0123456789abcdefg", "we b", "web/1", "wéb", "10.0.0.1:443"] {
        refuses(
            &POOL.replace("\"web\"", &format!("\"{name}\"")),
            5,
            "pool.name",
            "expected 1 to 16",
        );
    }
    refuses(&POOL.replace("\"web\"", "\"10.0.0.1\""), 5, "pool.name", "reads as an address");
    for name in ["0123456789abcdef", "a.b_c-9"] {
        let config = parse(&POOL.replace("\"web\"", &format!("\"{name}\""))).unwrap();
        assert_eq!(config.pools[0].service().to_string(), name);
    }
}

#[test]
fn what_only_a_vip_has_is_refused_with_the_reason() {
    let chooses = "`fallback` is of [[vip]] only: the balancer in front chooses";
    refuses(&with("fallback = \"flow\""), 7, "pool.fallback", chooses);
    let address = "`address` is of [[vip]] only: the balancer in front has the addresses";
    refuses(&with("address = \"198.51.100.10:443\""), 7, "pool.address", address);
    let named = "`pool` is of [[vip]] only: the balancer in front has the addresses";
    refuses(&with("pool = \"web\""), 7, "pool.pool", named);
    refuses(&with("assign = false"), 7, "pool.assign", "`assign` is of [[vip]] only: the balancer");
    let back = "`return_path` is of [[vip]] only: answers take the way";
    refuses(&with("return_path = \"route\""), 7, "pool.return_path", back);
    let weight = "`weight` is of [[vip]] only: the balancer in front chooses";
    refuses(&format!("{POOL}weight = 1\n"), 14, "pool.backend.weight", weight);
}

#[test]
fn what_only_a_pool_has_is_refused_of_a_vip_with_the_reason() {
    let vip = |line: &str| GOOD.replace("session_timeout = \"10m\"", line);
    let why = "is of [[pool]] only; a VIP has an address that clients dial";
    refuses(&vip("name = \"web\""), 8, "vip.name", &format!("`name` {why}"));
    refuses(&vip("shape = \"inline\""), 8, "vip.shape", &format!("`shape` {why}"));
    refuses(&vip("exempt = []"), 8, "vip.exempt", "`exempt` is of [[pool]] only");
    refuses(&vip("health = \"seen\""), 8, "vip.health", "\"seen\" is of [[pool]] only");
    refuses(&GOOD.replace("address = \"198.51.100.10:443\"\n", ""), 6, "vip", "expected `address`");
}

#[test]
fn an_address_is_of_one_pool_or_vip_only() {
    let twice = POOL.replace("10.0.0.12", "10.0.0.11");
    let told = "10.0.0.11:443 is already a backend of web; expected an address and port of one VIP or pool only";
    refuses(&twice, 13, "pool.backend.address", told);
    let vip = "\n[[vip]]\naddress = \"198.51.100.10:443\"\n[[vip.backend]]\naddress = \"10.0.0.12:443\"\n";
    let told = "10.0.0.12:443 is already a backend of 198.51.100.10:443";
    refuses(&format!("{POOL}{vip}"), 13, "pool.backend.address", told);
    let of_pool = vip.replace("198.51.100.10", "10.0.0.11").replace("10.0.0.12", "10.0.0.13");
    let told = "10.0.0.11:443 is already a VIP";
    refuses(&format!("{POOL}{of_pool}"), 10, "pool.backend.address", told);
    let other = POOL.split_once("\n\n").unwrap().1;
    refuses(&format!("{POOL}\n{other}"), 16, "pool.name", "`web` stands here twice");
    let other = other.replace("web", "app");
    refuses(&format!("{POOL}\n{other}"), 21, "pool.backend.address", "already a backend of web");
}

#[test]
fn families_do_not_mix_in_a_pool() {
    let mixed = POOL.replace("10.0.0.12:443", "[2001:db8::12]:443");
    let told = "[2001:db8::12]:443 beside 10.0.0.11:443: families do not mix";
    refuses(&mixed, 13, "pool.backend.address", told);
    refuses(&POOL.replace("10.0.0.11", "127.0.0.1"), 10, "pool.backend.address", "loopback");
}

#[test]
fn who_is_exempt_is_an_address_or_a_prefix_named_once() {
    let config = parse(&with("exempt = [\"10.9.0.2\", \"10.9.1.0/24\", \"2001:db8::2\"]")).unwrap();
    let exempt = &config.pools[0].inline().unwrap().exempt;
    assert_eq!(
        exempt.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.9.0.2", "10.9.1.0/24", "2001:db8::2"]
    );
    for (wrong, told) in [
        ("\"balancer\"", "`balancer` is no prefix; expected an address such as 10.0.0.2 or"),
        ("\"10.9.1.1/24\"", "expected 10.9.1.0/24"),
        ("\"10.9.1.0/33\"", "expected a length from 0 to 32"),
        ("\"10.9.0.2\", \"10.9.0.2/32\"", "10.9.0.2 stands here twice"),
        ("7", "invalid type: integer `7`"),
    ] {
        refuses(&with(&format!("exempt = [{wrong}]")), 7, "pool.exempt", told);
    }
    let many = (0..1025).map(|n| format!("\"10.9.{}.{}\"", n / 256, n % 256)).collect::<Vec<_>>();
    refuses(
        &with(&format!("exempt = [{}]", many.join(", "))),
        1,
        "",
        "1025 in exempt; expected at most 1024",
    );
}

#[test]
fn health_is_a_word_or_a_table_of_probes() {
    let health = |text: &str| parse(text).unwrap().pools[0].health.clone();
    assert_eq!(health(&with("health = \"seen\"")), Health::Seen);
    assert_eq!(health(&with("health = \"off\"")), Health::Off);
    let probes = |text: &str| format!("{POOL}[pool.health]\n{text}\n");
    let fall = Probes { fall: 9, ..Probes::default() };
    assert_eq!(health(&probes("fall = 9")), Health::Probes(fall));
    assert_eq!(health(&probes("enabled = false")), Health::Off);
    assert_eq!(health(&GOOD.replace("session_timeout = \"10m\"", "health = \"off\"")), Health::Off);
    let told = "invalid value: string \"sen\", expected \"seen\", \"off\" or a table of probes";
    refuses(&with("health = \"sen\""), 7, "pool.health", told);
    refuses(&with("health = 7"), 7, "pool.health", "\"seen\", \"off\" or a table of probes");
    refuses(&probes("fal = 9"), 15, "pool.health.fal", "unknown key `fal`; expected `fall`");
    refuses(&probes("fall = 0"), 15, "pool.health.fall", "a whole number from 1 to");
    refuses(&probes("interval = \"0s\""), 14, "pool.health", "interval or timeout is 0");
    refuses(&probes("timeout = \"25h\""), 14, "pool.health", "longer than a day");
}

#[test]
fn key_names_are_of_a_pool_as_of_a_vip() {
    let named = with("ticket_key_name = \"4@0\"")
        .replace("12:443\"", "12:443\"\nkey_names = [\"a1b2c3d4\"]");
    assert_eq!(parse(&named).unwrap().pools[0].backends[1].key_names, [[0xa1, 0xb2, 0xc3, 0xd4]]);
    refuses(
        &named.replace("c3d4", "c3"),
        14,
        "pool.backend.key_names",
        "expected 8 hexadecimal digits",
    );
}

#[test]
fn no_more_is_served_than_there_are_numbers() {
    let pools = (0..65).map(|n| {
        format!("[[pool]]\nname = \"p{n}\"\nshape = \"inline\"\n[[pool.backend]]\naddress = \"10.0.1.{n}:443\"\n")
    });
    let text = format!("[[interface]]\nname = \"eth0\"\n{}", pools.collect::<String>());
    refuses(&text, 1, "", "65 VIPs and pools; expected at most 64");
}

#[test]
fn tables_of_pools_in_wrong_brackets_are_told_the_right_ones() {
    refuses(&POOL.replace("[[pool]]", "[pool]"), 4, "pool", "wrong brackets; expected [[pool]]");
    refuses(&POOL.replace("[[pool]]", "[[pools]]"), 4, "pools", "unknown table; expected [[pool]]");
    let plural = POOL.replace("[[pool.backend]]", "[[pool.backends]]");
    refuses(&plural, 9, "pool.backends", "expected [[pool.backend]]");
}
