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

#[test]
fn a_short_file_gets_sensible_defaults() {
    let config = parse(GOOD).unwrap();
    let vip = &config.vips[0];
    assert_eq!(config.pin_dir, Path::new(PIN_DIR));
    assert_eq!(config.sizes, Sizes::default());
    assert_eq!(config.interfaces[0].hook, Hook::Auto);
    assert_eq!((vip.mode, vip.fallback, vip.owner_tries), (Mode::Steer, Fallback::Source, 3));
    assert_eq!(vip.session_timeout, Duration::from_secs(600));
    assert_eq!(vip.flow_timeout, Duration::from_secs(7860));
    assert!(vip.health.enabled);
    assert_eq!(vip.backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn refuses_an_unknown_key() {
    refuses(&GOOD.replace("session_timeout", "sesion_timeout"), 8, "vip.sesion_timeout", "unknown field");
}

#[test]
fn refuses_a_word_that_is_no_choice() {
    refuses(&GOOD.replace("name = \"eth0\"", "name = \"eth0\"\nhook = \"fast\""), 5, "interface.hook", "`auto`");
}

#[test]
fn refuses_an_address_without_port() {
    refuses(&GOOD.replace("10.0.0.1:443", "10.0.0.1"), 11, "vip.backend.address", "expected ADDRESS:PORT");
}

#[test]
fn refuses_a_backend_of_two_pools() {
    refuses(&GOOD.replace("10.0.0.2", "10.0.0.1"), 14, "vip.backend.address", "of one VIP only");
}

#[test]
fn refuses_a_backend_that_is_a_vip() {
    refuses(&GOOD.replace("10.0.0.2", "198.51.100.10"), 14, "vip.backend.address", "already a VIP");
}

#[test]
fn refuses_mixed_families() {
    refuses(&GOOD.replace("10.0.0.2:443", "[2001:db8::2]:443"), 14, "vip.backend.address", "families do not mix");
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
    refuses(&GOOD.replace("weight = 3", "weight = 70000"), 15, "vip.backend.weight", "u16");
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
    refuses(&format!("{GOOD}[vip.health]\nfall = 0\n"), 16, "vip.health", "at least 1");
}

#[test]
fn the_example_of_the_package_is_good() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/steer.toml");
    Config::load(&file).unwrap();
}
