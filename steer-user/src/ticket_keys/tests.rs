use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt as _};

use super::*;

fn backends(text: &str) -> Vec<SocketAddr> {
    text.split(',').map(|address| address.parse().unwrap()).collect()
}

#[track_caller]
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[track_caller]
fn refuses(backends: &[SocketAddr], out: &Path, because: &str) {
    let error = format!("{:#}", generate(backends, out).unwrap_err());
    assert!(error.contains(because), "{error}");
}

#[test]
fn every_backend_gets_two_private_files_of_eighty_bytes() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("deep/keys");
    let made = generate(&backends("10.0.0.11:443,[2001:db8::11]:8443"), &out).unwrap();
    let names = ["10.0.0.11_443", "2001-db8--11_8443"].map(|name| out.join(name));
    assert_eq!(mode(&out), 0o700);
    for (keys, directory) in made.backends.iter().zip(names) {
        assert_eq!((mode(&directory), fs::read_dir(&directory).unwrap().count()), (0o700, 2));
        assert_eq!(
            [&keys.current, &keys.previous],
            [&directory.join("current.key"), &directory.join("previous.key")]
        );
        for (file, name) in [&keys.current, &keys.previous].into_iter().zip(&keys.key_names) {
            let bytes = fs::read(file).unwrap();
            assert_eq!((bytes.len(), mode(file)), (80, 0o600));
            assert_eq!(
                *name,
                bytes[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            );
        }
        assert!(!keys.rotated);
    }
    let all = made.backends.iter().flat_map(|keys| &keys.key_names).collect::<HashSet<_>>();
    assert_eq!(all.len(), 4, "every name is another");
}

#[test]
fn a_second_run_rotates() {
    let out = tempfile::tempdir().unwrap();
    let backends = backends("10.0.0.11:443,10.0.0.12:443");
    let first = generate(&backends, out.path()).unwrap();
    let current = fs::read(&first.backends[0].current).unwrap();
    let second = generate(&backends, out.path()).unwrap();
    for (before, after) in first.backends.iter().zip(&second.backends) {
        assert!(after.rotated);
        assert_eq!(after.key_names[1], before.key_names[0]);
        assert!(!before.key_names.contains(&after.key_names[0]));
        assert_eq!(mode(&after.previous), 0o600);
    }
    assert_eq!(fs::read(&second.backends[0].previous).unwrap(), current);
}

#[test]
fn what_is_printed_has_names_and_no_secrets() {
    let out = tempfile::tempdir().unwrap();
    let made = generate(&backends("10.0.0.11:443"), out.path()).unwrap();
    let keys = &made.backends[0];
    let directory = out.path().join("10.0.0.11_443");
    assert_eq!(
        keys.nginx[0],
        format!("ssl_session_ticket_key {}/current.key;", directory.display())
    );
    assert_eq!(
        keys.nginx[1],
        format!("ssl_session_ticket_key {}/previous.key;", directory.display())
    );
    assert_eq!(
        keys.toml,
        format!("key_names = [\"{}\", \"{}\"]", keys.key_names[0], keys.key_names[1])
    );
    let secret = fs::read(&keys.current).unwrap()[16..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    assert!(!serde_json::to_string(&made).unwrap().contains(&secret[..16]));
}

#[test]
fn a_rotation_that_was_killed_is_made_good() {
    let out = tempfile::tempdir().unwrap();
    let backends = backends("10.0.0.11:443");
    let first = generate(&backends, out.path()).unwrap();
    let keys = &first.backends[0];
    fs::write(keys.current.with_extension("new"), "half").unwrap();
    // Killed between the two renames: the current key is in both files.
    fs::copy(&keys.current, &keys.previous).unwrap();
    let second = generate(&backends, out.path()).unwrap();
    assert_eq!(second.backends[0].key_names[1], keys.key_names[0]);
    assert_eq!(fs::read_dir(keys.current.parent().unwrap()).unwrap().count(), 2);
}

#[test]
fn a_missing_file_is_made() {
    let out = tempfile::tempdir().unwrap();
    let backends = backends("10.0.0.11:443");
    let first = generate(&backends, out.path()).unwrap();
    fs::remove_file(&first.backends[0].current).unwrap();
    let second = generate(&backends, out.path()).unwrap();
    assert!(!second.backends[0].rotated);
    assert_eq!(second.backends[0].key_names[1], first.backends[0].key_names[1]);
}

#[test]
fn a_file_of_another_size_is_refused_and_nothing_changes() {
    let out = tempfile::tempdir().unwrap();
    let backends = backends("10.0.0.11:443,10.0.0.12:443");
    let first = generate(&backends, out.path()).unwrap();
    for text in ["", "short", &"long".repeat(25)] {
        fs::write(&first.backends[1].current, text).unwrap();
        refuses(&backends, out.path(), "10.0.0.12_443/current.key is no key file of 80 bytes");
    }
    let bytes = fs::read(&first.backends[0].current).unwrap();
    assert_eq!(Key(bytes.try_into().unwrap()).name(), first.backends[0].key_names[0]);
}

#[test]
fn a_key_of_two_backends_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let both = backends("10.0.0.11:443,10.0.0.12:443");
    let first = generate(&both, out.path()).unwrap();
    fs::copy(&first.backends[0].current, &first.backends[1].current).unwrap();
    refuses(&both, out.path(), "10.0.0.12:443 and 10.0.0.11:443 have the same key");
    refuses(&backends("10.0.0.11:443,10.0.0.11:443"), out.path(), "named twice");
}

#[test]
fn of_runs_at_once_each_makes_keys_of_its_own_or_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let backends = backends("10.0.0.11:443");
    let runs = std::thread::scope(|scope| {
        let runs =
            (0..8).map(|_| scope.spawn(|| generate(&backends, out.path()))).collect::<Vec<_>>();
        runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
    });
    let mut names =
        runs.iter().flatten().map(|made| made.backends[0].key_names.clone()).collect::<Vec<_>>();
    let refusals = runs.iter().filter_map(|run| run.as_ref().err());
    assert!(
        refusals
            .into_iter()
            .all(|why| why.to_string().contains("another `steer keys generate` works in"))
    );
    // What the last of them told stands in the files, and each told the one before its own current
    // key.
    let last = generate(&backends, out.path()).unwrap().backends[0].key_names.clone();
    names.push(last.clone());
    let follows = |name: &str| names.iter().filter(|told| told[1] == *name).count();
    assert!(
        names.iter().filter(|told| **told != last).all(|told| follows(&told[0]) == 1),
        "{names:?}"
    );
}

#[test]
fn a_directory_that_everybody_may_write_to_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let mode = |mode| fs::set_permissions(out.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    refuses(&backends("10.0.0.11:443"), out.path(), "everybody may write to");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    mode(0o1777);
    generate(&backends("10.0.0.11:443"), out.path()).unwrap();
}

#[test]
fn lines_for_nginx_are_quoted_where_they_need_it() {
    assert_eq!(
        nginx_word("/etc/nginx/keys/10.0.0.11_443/current.key"),
        "/etc/nginx/keys/10.0.0.11_443/current.key"
    );
    assert_eq!(nginx_word("/k d;x/\"{}\\"), r#""/k d;x/\"{}\\""#);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("file");
    fs::write(&file, "").unwrap();
    refuses(&backends("10.0.0.11:443"), &file.join("keys"), "create the directory");
}
