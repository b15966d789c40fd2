//! `inspect` against captures of real stacks: those in `captures`, and all of the directory that
//! `STEER_VECTORS` names, whose `manifest.tsv` and `hellos.tsv` say what tshark saw.

use std::{
    collections::HashMap,
    env, fs,
    fs::File,
    path::{Path, PathBuf},
};

use steer_user::inspect::{Ending, Outcome, Row, Summary, inspect};

fn rows(path: &Path) -> (Vec<Row>, Summary) {
    let mut rows = Vec::new();
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let summary = inspect(file, |row| {
        rows.push(row);
        Ok::<(), ()>(())
    });
    (rows, summary.unwrap_or_else(|stopped| panic!("{}: {stopped:?}", path.display())))
}

/// The directory of all vectors, if it is here.
fn vectors() -> Option<PathBuf> {
    let named = env::var_os("STEER_VECTORS").map(PathBuf::from);
    if named.is_none() {
        eprintln!("STEER_VECTORS is not set: only the committed captures are looked at");
    }
    named
}

/// A table with a header, as maps from column to value.
fn table(path: &Path) -> Vec<HashMap<String, String>> {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines =
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
    let header = lines.next().expect("a header");
    lines.map(|line| header.iter().cloned().zip(line).collect()).collect()
}

/// What a table has of an identifier, as far as `inspect` tells it.
fn prefix(value: &str, n_bytes: usize) -> Option<&str> {
    (!value.is_empty()).then(|| &value[..value.len().min(n_bytes * 2)])
}

#[test]
fn committed_captures_give_their_rows() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut n = 0;
    for entry in fs::read_dir(&directory).expect("the captures") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            continue;
        }
        let (rows, summary) = rows(&path);
        assert_eq!(summary.ending, Ending::Whole, "{}", path.display());
        let found: String =
            rows.iter().map(|row| serde_json::to_string(row).expect("JSON") + "\n").collect();
        let expected = fs::read_to_string(path.with_extension("jsonl")).expect("the expected rows");
        assert_eq!(found, expected, "{}", path.display());
        n += 1;
    }
    assert!(n >= 6, "{n} captures");
}

#[test]
fn every_capture_agrees_with_the_manifest() {
    let Some(directory) = vectors() else { return };
    let manifest = table(&directory.join("manifest.tsv"));
    for capture in &manifest {
        let name = &capture["name"];
        let (rows, summary) = rows(&directory.join(format!("{name}.pcap")));
        assert_eq!(
            (summary.ending, summary.not_read.total(), summary.cut_short),
            (Ending::Whole, 0, 0),
            "{name}"
        );
        assert_eq!(rows.len().to_string(), capture["streams"], "{name}");
        let server_id =
            |row: &Row| row.server_hello.as_ref().and_then(|hello| hello.session_id.clone());
        let client_id =
            |row: &Row| row.client_hello.as_ref().and_then(|hello| hello.session_id.clone());
        assert_eq!(
            server_id(&rows[0]).as_deref(),
            prefix(&capture["first_sh_session_id"], 32),
            "{name}"
        );
        assert_eq!(
            rows[0].new_session_ticket_prefix.as_deref(),
            prefix(&capture["nst_ticket_first32"], 32),
            "{name}"
        );
        let resumed = rows[1..].iter().filter(|row| row.outcome == Outcome::Resumed).count();
        assert_eq!(format!("{resumed}/{}", rows.len() - 1), capture["resumed_streams"], "{name}");
        let longest =
            rows.iter().filter_map(|row| row.client_hello.as_ref()).max_by_key(|hello| hello.bytes);
        let longest = longest.expect("a hello");
        assert_eq!((longest.bytes + 5).to_string(), capture["max_ch_bytes"], "{name}");
        assert_eq!(longest.segments > 1, capture["ch_over_2_segments"] == "yes", "{name}");
        let Some(second) = rows.get(1) else { continue };
        let hello = second.client_hello.as_ref().expect("a hello");
        assert_eq!(
            client_id(second).as_deref(),
            prefix(&capture["resume_ch_session_id"], 32),
            "{name}"
        );
        assert_eq!(
            server_id(second).as_deref(),
            prefix(&capture["resume_sh_session_id"], 32),
            "{name}"
        );
        assert_eq!(
            hello.ticket_prefix.as_deref(),
            prefix(&capture["ch_ticket_ext_first32"], 32),
            "{name}"
        );
        assert_eq!(
            hello.psk_prefix.as_deref(),
            prefix(&capture["psk_identity_first16"], 16),
            "{name}"
        );
    }
    eprintln!("{} captures agree with the manifest", manifest.len());
}

#[test]
fn every_hello_agrees_with_its_line() {
    let Some(directory) = vectors() else { return };
    let mut captures: HashMap<String, Vec<Row>> = HashMap::new();
    let lines = table(&directory.join("hellos.tsv"));
    for line in &lines {
        let name = &line["name"];
        let all = captures
            .entry(name.clone())
            .or_insert_with(|| rows(&directory.join(format!("{name}.pcap"))).0);
        let stream: usize = line["stream"].parse().expect("a number");
        let row = &all[stream];
        let what = format!("{name} stream {stream} frame {}", line["frame"]);
        match line["hs_types"].split(',').next() {
            Some("1") => client_agrees(row, line, &what),
            Some("2") => server_agrees(row, line, &what),
            Some("4") => {
                let expected = prefix(&line["ticket_ext"], 32);
                assert_eq!(row.new_session_ticket_prefix.as_deref(), expected, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    let streams: usize = captures.values().map(Vec::len).sum();
    let clients = lines.iter().filter(|line| line["hs_types"] == "1").count();
    assert_eq!(streams, clients, "connections without a hello");
    eprintln!("{} lines of {} captures agree", lines.len(), captures.len());
}

#[track_caller]
fn client_agrees(row: &Row, line: &HashMap<String, String>, what: &str) {
    let hello = row.client_hello.as_ref().expect(what);
    assert_eq!(row.client.port().to_string(), line["srcport"], "{what}");
    assert_eq!((hello.bytes - 4).to_string(), line["hs_lengths"], "{what}");
    assert_eq!(hello.session_id.as_deref(), prefix(&line["session_id"], 32), "{what}");
    assert_eq!(hello.ticket_prefix.as_deref(), prefix(&line["ticket_ext"], 32), "{what}");
    assert_eq!(hello.psk_prefix.as_deref(), prefix(&line["psk_identity"], 16), "{what}");
    assert_eq!(hello.version, Some(&*line["version"]), "{what}");
    assert_eq!(hello.sni.as_deref(), prefix(&line["sni"], 128), "{what}");
    assert_eq!(hello.ech, line["extension_types"].split(',').any(|kind| kind == "65037"), "{what}");
    let segments = if line["tcp_segments"].is_empty() { "1" } else { &line["tcp_segments"] };
    assert_eq!(hello.segments.to_string(), segments, "{what}");
    assert_eq!(row.outcome.to_string(), line["outcome"], "{what}");
}

#[track_caller]
fn server_agrees(row: &Row, line: &HashMap<String, String>, what: &str) {
    let hello = row.server_hello.as_ref().expect(what);
    assert_eq!(row.server.port().to_string(), line["srcport"], "{what}");
    assert_eq!(hello.session_id.as_deref(), prefix(&line["session_id"], 32), "{what}");
    assert_eq!(hello.version, Some(&*line["version"]), "{what}");
    assert_eq!(hello.psk_accepted, !line["selected_psk"].is_empty(), "{what}");
}
