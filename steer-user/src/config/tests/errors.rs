//! All that is wrong with a file is told at once, and nothing that only follows from it.

use super::*;

/// Line and key of every error.
fn told(text: &str) -> Vec<(usize, String)> {
    let ConfigErrors(errors) = Config::parse_all(Path::new("steer.toml"), text).unwrap_err();
    errors.into_iter().map(|error| (error.line, error.key)).collect()
}

fn at(places: &[(usize, &str)]) -> Vec<(usize, String)> {
    places.iter().map(|(line, key)| (*line, (*key).to_owned())).collect()
}

#[test]
fn every_wrong_key_and_value_is_told_in_the_files_order() {
    let text = r#"metrics = "127.0.0.1"
[sizes]
sessions = 0
sesions = 5
[[interface]]
name = "eth0"
hook = "xdb"
[[vip]]
address = "198.51.100.10:443"
mode = "stear"
session_timeout = "long"
[[vip.backend]]
address = "10.0.0.1:443"
weight = -1
[[vip.backend]]
address = "10.0.0.2:443"
wieght = 2
[vip.health]
interval = "soon"
"#;
    let expected = [
        (1, "metrics"),
        (3, "sizes.sessions"),
        (4, "sizes.sesions"),
        (7, "interface.hook"),
        (10, "vip.mode"),
        (11, "vip.session_timeout"),
        (14, "vip.backend.weight"),
        (17, "vip.backend.wieght"),
        (19, "vip.health.interval"),
    ];
    assert_eq!(told(text)[..4], at(&expected)[..4]);
    assert_eq!(told(text), at(&expected));
}

#[test]
fn what_only_the_whole_file_shows_is_told_with_the_rest() {
    let text = r#"socket = "here"
colour = "blue"
[[interface]]
name = "eth0"
[[interface]]
name = "eth0"
[[vip]]
address = "198.51.100.10:443"
session_limit = "1500ms"
[[vip.backend]]
address = "10.0.0.1:443"
[[vip.backend]]
address = "10.0.0.1:443"
[[vip.backend]]
address = "[2001:db8::1]:443"
[[vip]]
address = "198.51.100.11:443"
"#;
    assert_eq!(
        told(text),
        at(&[
            (1, "socket"),
            (2, "colour"),
            (6, "interface.name"),
            (9, "vip.session_limit"),
            (13, "vip.backend.address"),
            (15, "vip.backend.address"),
            (17, "vip.address"),
        ])
    );
}

#[test]
fn what_follows_from_an_error_is_not_told() {
    let shared = "[[interface]]\nname = \"eth0\"\n[[vip]]\naddress = \"192.0.2.1:443\"\npool = \"web\"\n\
                  [[pool]]\nname = 7\n[[pool.backend]]\naddress = \"10.0.0.1:443\"\n";
    assert_eq!(told(shared), at(&[(7, "pool.name")]), "no pool named web would follow");
    let missing = GOOD.replace("address = \"10.0.0.1:443\"", "address = \"10.0.0.1\"");
    assert_eq!(told(&missing), at(&[(11, "vip.backend.address")]), "no key is missing there");
    let lacking = GOOD.replace("name = \"eth0\"", "hook = \"tx\"");
    assert_eq!(told(&lacking).len(), 2, "{:?}", told(&lacking));
    let unquoted = GOOD.replace("\"10m\"", "10m").replace("weight = 3", "weight = true");
    assert_eq!(told(&unquoted), at(&[(8, "vip.session_timeout"), (15, "vip.backend.weight")]));
}

#[test]
fn a_file_full_of_errors_is_not_read_for_ever() {
    let text = GOOD.to_owned() + &"[[vip.backend]]\nwieght = 1\n".repeat(1000);
    assert!(told(&text).len() <= 40);
}
