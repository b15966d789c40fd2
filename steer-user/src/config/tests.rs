mod bridges;
mod errors;
mod pools;
mod shared;

use steer_common::{
    maps::{MAPS, Size},
    session::NameLayout,
};

use super::*;

const GOOD: &str = r#"metrics = "127.0.0.1:9464"

[[interface]]
name = "eth0"

[[vip]]
address = "198.51.100.10:443"
session_timeout = "10m"

[[vip.backend]]
address = "10.0.0.1:443"

[[vip.backend]]
address = "10.0.0.2:443"
weight = 3
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("steer.toml"), text)
}

#[track_caller]
fn refuses(text: &str, line: usize, key: &str, expected: &str) {
    let error = parse(text).unwrap_err();
    assert_eq!((error.line, error.key.as_str()), (line, key), "{error}");
    assert!(error.message.contains(expected), "{error}");
    assert!(error.to_string().starts_with(&format!("steer.toml:{line}: ")), "{error}");
}

/// A gateway that is a router for a VIP, and stands in a bridge.
fn bridge_and_router() -> String {
    let pool = "[[bridge]]\nname = \"br0\"\noutside = [\"eth1\"]\ninside = [\"eth2\", \"eth3\"]\n[[pool]]\n\
                name = \"web\"\nshape = \"bridge\"\n[[pool.backend]]\naddress = \"10.0.9.1:443\"\n";
    format!("{GOOD}{pool}")
}

#[test]
fn a_short_file_gets_sensible_defaults() {
    let config = parse(GOOD).unwrap();
    let pool = &config.pools[0];
    let vip = pool.vip().unwrap();
    assert_eq!(config.pin_dir, Path::new(PIN_DIR));
    assert_eq!(config.sizes, Sizes::default());
    assert_eq!(config.interfaces[0].hook, Hook::Auto);
    assert_eq!((pool.mode, vip.fallback, pool.owner_tries), (Mode::Steer, Fallback::Auto, 3));
    assert!(!pool.swallow);
    assert_eq!(pool.session_timeout, Duration::from_secs(600));
    assert_eq!(pool.flow_timeout, Duration::from_secs(7860));
    assert_eq!(pool.health, Health::Probes(Probes::default()));
    assert_eq!(pool.backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn who_is_learned_is_a_matter_of_the_vip() {
    let settings =
        "session_timeout = \"10m\"\nlearn_without_certificate = true\nsessions_per_source = 100";
    let config = parse(&GOOD.replace("session_timeout = \"10m\"", settings)).unwrap();
    assert_eq!(
        (config.pools[0].learn_without_certificate, config.pools[0].sessions_per_source),
        (true, 100)
    );
    let config = parse(GOOD).unwrap();
    assert_eq!(
        (config.pools[0].learn_without_certificate, config.pools[0].sessions_per_source),
        (false, 0)
    );
    refuses(
        &GOOD.replace("session_timeout = \"10m\"", "sessions_per_source = -1"),
        8,
        "vip.sessions_per_source",
        "integer `-1`, expected a whole number from 0 to 4294967295",
    );
}

#[test]
fn refuses_an_unknown_key() {
    refuses(
        &GOOD.replace("session_timeout", "sesion_timeout"),
        8,
        "vip.sesion_timeout",
        "expected `session_timeout`",
    );
}

#[test]
fn refuses_a_word_that_is_no_choice() {
    refuses(
        &GOOD.replace("name = \"eth0\"", "name = \"eth0\"\nhook = \"fast\""),
        5,
        "interface.hook",
        "`auto`",
    );
}

#[test]
fn refuses_names_that_the_kernel_refuses() {
    for name in ["", ".", "..", "e:h", "a/b", "a b", "a\\tb", "sixteen-letters."] {
        refuses(&GOOD.replace("eth0", name), 4, "interface.name", "is no interface name");
    }
    for name in ["eth0.100", "fifteen-letters", "br-ü"] {
        assert_eq!(parse(&GOOD.replace("eth0", name)).unwrap().interfaces[0].name, name);
    }
}

#[test]
fn refuses_a_metrics_port_that_the_agent_may_not_listen_at() {
    for port in [0, 80, 1023] {
        let text = GOOD.replace("127.0.0.1:9464", &format!("127.0.0.1:{port}"));
        refuses(&text, 1, "metrics", "expected one from 1024 on");
    }
    assert!(parse(&GOOD.replace("127.0.0.1:9464", "[::1]:1024")).is_ok());
}

#[test]
fn refuses_a_socket_whose_path_is_too_long() {
    let socket = |length: usize| format!("socket = \"/{}\"\n{GOOD}", "s".repeat(length - 1));
    refuses(&socket(108), 1, "socket", "108 bytes; expected at most 107");
    assert_eq!(parse(&socket(107)).unwrap().socket.as_os_str().len(), 107);
}

#[test]
fn what_outlasts_a_reboot_has_a_file_by_default_at_the_default_place_only() {
    let file = |top: &str| parse(&format!("{top}\n{GOOD}")).unwrap().state_file;
    let (default, other) = (Some(PathBuf::from(STATE_FILE)), Some(PathBuf::from("/srv/state")));
    assert_eq!(file(""), default);
    assert_eq!(file("pin_dir = \"/sys/fs/bpf/other\""), None);
    assert_eq!(file("state_file = \"off\""), None);
    assert_eq!(file("pin_dir = \"/sys/fs/bpf/other\"\nstate_file = \"/srv/state\""), other);
    for wrong in ["state", "/", "/var/lib/steer/", "/var/lib/..", "", "on"] {
        let text = format!("state_file = {wrong:?}\n{GOOD}");
        refuses(&text, 1, "state_file", "expected the absolute path of a file, or \"off\"");
    }
    let elsewhere = |top: &str, pin_dir: &str| {
        let config = parse(&format!("{top}\n{GOOD}")).unwrap();
        config.pinned_at(pin_dir.into()).state_file
    };
    assert_eq!(elsewhere("", PIN_DIR), default);
    assert_eq!(elsewhere("", "/sys/fs/bpf/other"), None);
    assert_eq!(elsewhere("state_file = \"/srv/state\"", "/sys/fs/bpf/other"), other);
}

#[test]
fn refuses_addresses_that_no_other_machine_reaches() {
    for address in ["127.0.0.1:443", "255.255.255.255:443", "[fe80::12%2]:443", "[::1]:443"] {
        refuses(&GOOD.replace("198.51.100.10:443", address), 7, "vip.address", "expected");
        refuses(&GOOD.replace("10.0.0.1:443", address), 11, "vip.backend.address", "expected");
    }
}

#[test]
fn refuses_an_address_without_port() {
    refuses(
        &GOOD.replace("10.0.0.1:443", "10.0.0.1"),
        11,
        "vip.backend.address",
        "expected ADDRESS:PORT",
    );
}

#[test]
fn refuses_a_backend_of_two_pools() {
    refuses(
        &GOOD.replace("10.0.0.2", "10.0.0.1"),
        14,
        "vip.backend.address",
        "of one VIP or pool only",
    );
}

#[test]
fn refuses_a_backend_that_is_a_vip() {
    refuses(&GOOD.replace("10.0.0.2", "198.51.100.10"), 14, "vip.backend.address", "already a VIP");
}

#[test]
fn refuses_mixed_families() {
    refuses(
        &GOOD.replace("10.0.0.2:443", "[2001:db8::2]:443"),
        14,
        "vip.backend.address",
        "families do not mix",
    );
}

#[test]
fn refuses_a_duration_without_meaning() {
    refuses(&GOOD.replace("10m", "soon"), 8, "vip.session_timeout", "expected a duration");
}

#[test]
fn refuses_a_fraction_of_a_second_where_maps_count_seconds() {
    refuses(&GOOD.replace("10m", "500ms"), 8, "vip.session_timeout", "whole seconds");
}

#[test]
fn refuses_a_weight_that_does_not_fit() {
    refuses(
        &GOOD.replace("weight = 3", "weight = 70000"),
        15,
        "vip.backend.weight",
        "from 0 to 65535",
    );
}

#[test]
fn refuses_a_vip_without_backends() {
    let text = GOOD.split("[[vip.backend]]").next().unwrap();
    refuses(text, 7, "vip.address", "[[vip.backend]]");
}

#[test]
fn refuses_a_file_without_interfaces() {
    refuses(&GOOD.replace("[[interface]]\nname = \"eth0\"\n", ""), 1, "", "[[interface]]");
}

#[test]
fn refuses_health_that_never_falls() {
    refuses(
        &format!("{GOOD}[vip.health]\nfall = 0\n"),
        17,
        "vip.health.fall",
        "a whole number from 1 to",
    );
}

#[test]
fn the_example_of_the_package_is_good() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/steer.toml");
    Config::load(&file).unwrap();
}

const NAME: &str = "000102030405060708090a0b0c0d0e0f";

/// The good file with a setting of the VIP, and key names of both backends.
fn named(setting: &str, first: &str, second: &str) -> String {
    let text =
        GOOD.replace("session_timeout = \"10m\"", &format!("ticket_key_name = \"{setting}\""));
    text.replace("0.1:443\"", &format!("0.1:443\"\nkey_names = [{first}]"))
        + &format!("key_names = [{second}]\n")
}

#[test]
fn key_names_stand_where_most_stacks_have_them_unless_told() {
    let at = |at, len| TicketKeyName::At(NameLayout { at, len });
    let setting = |text: &str| parse(text).unwrap().pools[0].ticket_key_name;
    assert_eq!(setting(GOOD), at(0, 16));
    assert_eq!(parse(GOOD).unwrap().pools[0].key_name_timeout, Duration::from_secs(86_400));
    let wanted = [("16@0", at(0, 16)), ("4@0", at(0, 4)), ("16@1", at(1, 16)), ("none", at(0, 0))];
    for (word, layout) in wanted.into_iter().chain([("auto", TicketKeyName::Auto)]) {
        assert_eq!(setting(&named(word, "", "")), layout, "{word}");
    }
}

#[test]
fn names_given_with_auto_tell_the_layout() {
    let short = parse(&named("auto", "\"a1b2c3d4\"", "")).unwrap();
    assert_eq!(short.pools[0].ticket_key_name, TicketKeyName::At(NameLayout { at: 0, len: 4 }));
    assert_eq!(short.pools[0].backends[0].key_names, [[0xa1, 0xb2, 0xc3, 0xd4]]);
    let long = parse(&named("auto", "", &format!("\"{NAME}\""))).unwrap();
    assert_eq!(long.pools[0].ticket_key_name, TicketKeyName::default());
    refuses(
        &named("auto", "\"a1b2c3d4\"", &format!("\"{NAME}\"")),
        17,
        "vip.backend.key_names",
        "expected 8",
    );
}

#[test]
fn refuses_a_place_of_key_names_that_is_none() {
    refuses(&named("8@0", "", ""), 8, "vip.ticket_key_name", "expected \"16@0\"");
    refuses(
        &GOOD.replace("session_timeout = \"10m\"", "key_name_timeout = 0"),
        8,
        "vip.key_name_timeout",
        "expected whole seconds, 1s to",
    );
}

#[test]
fn refuses_a_key_name_of_another_length() {
    refuses(
        &named("16@0", "\"a1b2c3d4\"", ""),
        12,
        "vip.backend.key_names",
        "expected 32 hexadecimal digits",
    );
    refuses(
        &named("4@0", &format!("\"{NAME}\""), ""),
        12,
        "vip.backend.key_names",
        "expected 8 hexadecimal digits",
    );
    refuses(
        &named("auto", "\"a1b2\"", ""),
        12,
        "vip.backend.key_names",
        "expected 32 hexadecimal digits, or 8",
    );
    refuses(&named("4@0", "\"a1b2c3dx\"", ""), 12, "vip.backend.key_names", "hexadecimal");
}

#[test]
fn refuses_a_key_name_of_two_backends() {
    refuses(
        &named("4@0", "\"a1b2c3d4\"", "\"A1B2C3D4\""),
        17,
        "vip.backend.key_names",
        "of 10.0.0.1:443 already",
    );
}

#[test]
fn refuses_key_names_where_tickets_have_none() {
    refuses(
        &named("none", "\"a1b2c3d4\"", ""),
        12,
        "vip.backend.key_names",
        "expected no key_names",
    );
}

#[test]
fn refuses_more_key_names_than_a_backend_can_have() {
    let nine = (0..9).map(|n| format!("\"0000000{n}\"")).collect::<Vec<_>>().join(", ");
    refuses(&named("4@0", &nine, ""), 12, "vip.backend.key_names", "at most 8");
}

#[test]
fn an_error_in_a_list_of_several_lines_names_its_key() {
    refuses(
        &named("4@0", "\n  \"a1b2c3d4\",\n  \"nothing\",\n", ""),
        14,
        "vip.backend.key_names",
        "hexadecimal",
    );
}

#[test]
fn a_takeover_is_off_unless_asked_for_and_ends_within_an_hour() {
    let with = |time: &str| {
        format!("[takeover]\nfor = {time}\n{GOOD}").replace("metrics = \"127.0.0.1:9464\"\n", "")
    };
    assert_eq!(parse(GOOD).unwrap().takeover, None);
    assert_eq!(parse(&with("\"10m\"")).unwrap().takeover, Some(Duration::from_secs(600)));
    for wrong in ["0", "\"61m\"", "\"1500ms\""] {
        refuses(&with(wrong), 2, "takeover.for", "expected whole seconds, 1s to 1h");
    }
    refuses(&with("1\nuntil = 2"), 3, "takeover.until", "unknown key `until`; expected `for`");
}

#[test]
fn a_misspelt_table_is_named_at_its_own_line_with_the_right_name() {
    refuses(&GOOD.replace("[[vip]]", "[[vips]]"), 6, "vips", "unknown table; expected [[vip]]");
    refuses(
        &GOOD.replace("[[vip.backend]]", "[[vip.backends]]"),
        10,
        "vip.backends",
        "expected [[vip.backend]]",
    );
    refuses(&GOOD.replace("[[vip]]", "[vip]"), 6, "vip", "wrong brackets; expected [[vip]]");
    refuses(
        &GOOD.replace("[[interface]]", "[interface]"),
        3,
        "interface",
        "expected [[interface]]",
    );
    refuses(
        &format!("{GOOD}[[sizes]]\nflows = 1\n"),
        16,
        "sizes",
        "wrong brackets; expected [sizes]",
    );
}

#[test]
fn a_misspelt_key_is_named_with_the_right_one_or_where_it_belongs() {
    refuses(
        &GOOD.replace("weight", "wieght"),
        15,
        "vip.backend.wieght",
        "unknown key `wieght`; expected `weight`",
    );
    refuses(
        &format!("sockets = \"/x\"\n{GOOD}"),
        1,
        "sockets",
        "unknown key `sockets`; expected `socket`",
    );
    refuses(
        &format!("{GOOD}socket = \"/x\"\n"),
        16,
        "vip.backend.socket",
        "expected above all tables",
    );
    refuses(
        &format!("{GOOD}colour = 1\n"),
        16,
        "vip.backend.colour",
        "expected one of `address`, `weight`, `key_names`",
    );
    refuses(
        &GOOD.replace("name = \"eth0\"", "hook = \"tc\""),
        3,
        "interface",
        "missing key; expected `name`",
    );
}

#[test]
fn a_wrong_number_is_told_its_range_at_its_line() {
    for wrong in ["-1", "0", "134217729", "5000000000", "99999999999999999999", "1.5", "\"10\""] {
        let text = format!("{GOOD}[sizes]\nflows = 1\nsessions = {wrong}\n");
        refuses(&text, 18, "sizes.sessions", "expected a whole number from 1 to 134217728");
    }
    for wrong in ["0", "256", "70000"] {
        let text = GOOD.replace("session_timeout = \"10m\"", &format!("owner_tries = {wrong}"));
        refuses(&text, 8, "vip.owner_tries", "expected a whole number from 1 to 255");
    }
}

#[test]
fn the_sizes_that_can_be_said_and_their_defaults_are_those_of_the_list_of_maps() {
    let sizable =
        MAPS.iter().filter(|map| map.size == Size::Sizable).map(|map| (map.name, map.entries));
    assert_eq!(Sizes::default().named().to_vec(), sizable.collect::<Vec<_>>());
}

#[test]
fn probes_shake_hands_as_the_file_says() {
    let health = |lines: &str| {
        let text = format!("{GOOD}[vip.health]\n{lines}\n");
        parse(&text).map(|config| config.pools[0].health.clone())
    };
    let tls = |tls: Tls| Health::Probes(Probes { tls: Some(tls.into()), ..Probes::default() });
    assert_eq!(health("type = \"tcp\""), Ok(Health::Probes(Probes::default())));
    assert_eq!(health("type = \"tls\""), Ok(tls(Tls::default())));
    let all = "type = \"tls\"\nsni = \"www.example.com\"\nca = \"/ca\"\ncertificate = \"/c\"\nkey = \"/k\"\n\
               min_version = \"1.3\"\nmax_version = \"1.3\"";
    let said = Tls {
        sni: Some("www.example.com".to_owned()),
        ca: Some("/ca".into()),
        certificate: Some("/c".into()),
        key: Some("/k".into()),
        min_version: TlsVersion::V1_3,
        max_version: TlsVersion::V1_3,
    };
    assert_eq!(health(all), Ok(tls(said)));
    for (lines, expected) in [
        ("sni = \"a.example\"", "`sni` says nothing of TCP; expected `type = \"tls\"`"),
        ("ca = \"/ca\"\ntype = \"tcp\"", "`ca` says nothing of TCP"),
        ("type = \"tls\"\nkey = \"/k\"", "both `certificate` and `key`, or neither"),
        ("type = \"tls\"\nsni = \"a..example\"", "\"a..example\" is no host name"),
        ("type = \"tls\"\nsni = \"10.0.0.1\"", "\"10.0.0.1\" is no host name"),
        ("type = \"tls\"\nmin_version = \"1.3\"\nmax_version = \"1.2\"", "is above `max_version`"),
    ] {
        refuses(&format!("{GOOD}[vip.health]\n{lines}\n"), 16, "vip.health", expected);
    }
    let wrong = format!("{GOOD}[vip.health]\ntype = \"http\"\n");
    refuses(&wrong, 17, "vip.health.type", "`tcp` or `tls`");
    let wrong = format!("{GOOD}[vip.health]\ntype = \"tls\"\nmin_version = \"1.1\"\n");
    refuses(&wrong, 18, "vip.health.min_version", "`1.2` or `1.3`");
}

#[test]
fn backups_stand_behind_somebody() {
    let first = "address = \"10.0.0.1:443\"\n";
    let backup = GOOD.replace(first, &format!("{first}backup = true\n"));
    let pool = parse(&backup).unwrap().pools.remove(0);
    assert_eq!(pool.backends.iter().filter(|backend| backend.backup).count(), 1);
    let all = GOOD.replace("[[vip.backend]]\n", "[[vip.backend]]\nbackup = true\n");
    assert!(parse(&all).unwrap_err().message.contains("every backend is a backup"));
    let send = GOOD.replace("session_timeout = \"10m\"", "on_all_down = \"send\"");
    let shape = parse(&send).unwrap().pools.remove(0).shape;
    assert!(matches!(shape, Shape::Vip(Vip { on_all_down: OnAllDown::Send, .. })));
    let wrong = GOOD.replace("session_timeout = \"10m\"", "on_all_down = \"reset\"");
    refuses(&wrong, 8, "vip.on_all_down", "`drop` or `send`");
}
