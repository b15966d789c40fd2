//! Sessions and key names as a file, one JSON object a line: what a gateway knows, for another one or
//! for itself after a reboot. Pools and backends stand in it by name and address, times as ages: so it
//! means the same wherever it is read. It has whole identifiers in it, which link a client's
//! connections; nobody resumes a session by one, for that takes its secret.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write},
    net::SocketAddr,
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use steer_common::{
    session::Kind,
    shared::{
        BACKEND_PRESENT, KEY_NAME_CONFIGURED, KEY_NAME_OPENED_TWO, KEY_NAME_PROVEN,
        KEY_NAME_SHARED, KeyName, Session, SessionKey, Vip,
    },
};

use crate::{address::socket, clock, plane::Plane, service::Service};

/// What the first line says of the file.
const FORMAT: &str = "steer-sessions";
/// Raised when a line means something else than before; lines of other kinds may come without.
const VERSION: u32 = 1;
/// Longest line, bytes.
const LINE_MAX: u64 = 4096;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// The first one.
    File { format: String, version: u32 },
    /// Who holds a session.
    Session(Row),
    /// Who holds a ticket key.
    KeyName(Row),
}

/// What is known of an identifier.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Row {
    /// Its VIP, or the name of its pool.
    pool: Service,
    /// `session-id`, `ticket` or `key-name`.
    kind: String,
    /// Its bytes, hexadecimal.
    id: String,
    owner: SocketAddr,
    /// Seconds since it was learned.
    age: u32,
    /// Seconds since its owner last issued or accepted it.
    idle: u32,
    /// How often the owner accepted it, or tickets of it.
    uses: u32,
    /// Of a key name: the end of the first ticket of it that was accepted.
    #[serde(default, skip_serializing_if = "is_zero")]
    tail: u16,
    /// Of a key name, any of `shared`, `proven`, `opened-two`: what its tickets showed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    seen: Vec<String>,
}

fn is_zero(n: &u16) -> bool {
    *n == 0
}

/// What tickets of a key name showed, by its word.
const SEEN: [(u16, &str); 3] =
    [(KEY_NAME_SHARED, "shared"), (KEY_NAME_PROVEN, "proven"), (KEY_NAME_OPENED_TWO, "opened-two")];

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Exported {
    /// Sessions.
    pub sessions: u64,
    /// Key names that were learned; what a configuration names stands there.
    pub key_names: u64,
}

/// What became of a file's lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Imported {
    /// Sessions that are known now.
    pub sessions: u64,
    /// Key names that are known now.
    pub key_names: u64,
    /// Of a pool or a backend that is not here.
    pub elsewhere: u64,
    /// Too old to be honoured.
    pub expired: u64,
    /// Of what this gateway has heard of since.
    pub known: u64,
    /// Lines of kinds that this version does not know.
    pub other: u64,
}

/// Writes all that is known.
///
/// # Errors
/// When the maps cannot be read, or the file cannot be written.
pub fn export(plane: &Plane, out: &mut impl Write) -> Result<Exported> {
    let (names, now) = (Names::read(plane)?, clock::seconds());
    let mut wrote = Exported::default();
    let head = Line::File { format: FORMAT.to_owned(), version: VERSION };
    let mut written = write(out, &head);
    plane.sessions.for_each(|key, session| {
        let (ages, owner) = ([session.first_seen, session.last_seen], session.owner);
        let Some(row) = names.row(&key, owner, ages, now) else { return };
        if written.is_ok() {
            written = write(out, &Line::Session(Row { uses: session.uses, ..row }));
            wrote.sessions += 1;
        }
    })?;
    plane.key_names.for_each(|key, name| {
        let (ages, owner) = ([name.first_seen, name.last_seen], name.owner);
        let learned = name.flags & KEY_NAME_CONFIGURED == 0;
        let Some(row) = names.row(&key, owner, ages, now).filter(|_| learned) else { return };
        if written.is_ok() {
            let seen = SEEN.iter().filter(|(flag, _)| name.flags & flag != 0);
            let seen = seen.map(|(_, word)| (*word).to_owned()).collect();
            let row = Row { uses: name.accepted, tail: name.tail, seen, ..row };
            written = write(out, &Line::KeyName(row));
            wrote.key_names += 1;
        }
    })?;
    written.and_then(|()| Ok(out.flush()?)).context("write")?;
    Ok(wrote)
}

fn write(out: &mut impl Write, line: &Line) -> Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    Ok(out.write_all(b"\n")?)
}

/// Takes over what a file says, but for what is known better here. The whole file is read before
/// anything is taken.
///
/// # Errors
/// With file and line where it cannot be understood: nothing was taken then.
pub fn import(plane: &mut Plane, file: &Path) -> Result<Imported> {
    each(file, |_| Ok(()))?;
    let (names, now) = (Names::read(plane)?, clock::seconds());
    let mut took = Imported::default();
    each(file, |line| {
        match line {
            Some(Line::File { .. }) => {}
            Some(Line::Session(row)) => match names.place(&row, now)? {
                Err(why) => why.count(&mut took),
                Ok(place) => take_session(plane, &row, place, &mut took)?,
            },
            Some(Line::KeyName(row)) => match names.place(&row, now)? {
                Err(why) => why.count(&mut took),
                Ok(place) => take_key_name(plane, &row, place, &mut took)?,
            },
            None => took.other += 1,
        }
        Ok(())
    })?;
    Ok(took)
}

fn take_session(plane: &mut Plane, row: &Row, place: Place, took: &mut Imported) -> Result<()> {
    let Place { key, owner, first_seen, last_seen } = place;
    if let Some(known) = plane.sessions.find(&key)?
        && is_newer(known.last_seen, last_seen)
    {
        took.known += 1;
        return Ok(());
    }
    let session = Session { owner, flags: 0, first_seen, last_seen, uses: row.uses };
    plane.sessions.insert(&key, &session)?;
    took.sessions += 1;
    Ok(())
}

fn take_key_name(plane: &mut Plane, row: &Row, place: Place, took: &mut Imported) -> Result<()> {
    let Place { key, owner, first_seen, last_seen } = place;
    if let Some(known) = plane.key_names.find(&key)?
        && (known.flags & KEY_NAME_CONFIGURED != 0 || is_newer(known.last_seen, last_seen))
    {
        took.known += 1;
        return Ok(());
    }
    let seen = SEEN.iter().filter(|(_, word)| row.seen.iter().any(|said| said == word));
    let flags = seen.fold(0, |flags, (flag, _)| flags | flag);
    let (accepted, tail) = (row.uses, row.tail);
    let name =
        KeyName { owner, flags, first_seen, last_seen, accepted, tail, ..KeyName::default() };
    plane.key_names.insert(&key, &name)?;
    took.key_names += 1;
    Ok(())
}

/// Whether a time, seconds of CLOCK_MONOTONIC, is not before another one.
fn is_newer(known: u32, said: u32) -> bool {
    known.wrapping_sub(said) as i32 >= 0
}

/// Hands out each line; `None` of a kind that this version does not know.
fn each(file: &Path, mut told: impl FnMut(Option<Line>) -> Result<()>) -> Result<()> {
    let name = file.display();
    let opened = File::open(file).with_context(|| format!("read {name}"))?;
    let mut lines = BufReader::new(opened);
    let mut text = Vec::new();
    for number in 1_u64.. {
        text.clear();
        let n = lines.by_ref().take(LINE_MAX).read_until(b'\n', &mut text);
        if n.with_context(|| format!("read {name}"))? == 0 {
            if number == 1 {
                bail!("{name} is empty; expected what `steer sessions export` wrote");
            }
            return Ok(());
        }
        let line = line(&text, number == 1);
        line.and_then(&mut told).with_context(|| format!("{name}:{number}"))?;
    }
    Ok(())
}

/// Understands a line.
fn line(text: &[u8], is_first: bool) -> Result<Option<Line>> {
    if text.len() as u64 >= LINE_MAX && !text.ends_with(b"\n") {
        bail!("a line of more than {LINE_MAX} bytes");
    }
    let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(text)
        .map_err(|_| anyhow!("no JSON object; expected what `steer sessions export` wrote"))?;
    let is_known = ["file", "session", "key-name"].iter().any(|kind| object.contains_key(*kind));
    if !is_known && !is_first {
        return Ok(None);
    }
    let line = serde_json::from_value(object.into())
        .map_err(|error| anyhow!("{error}; expected what `steer sessions export` wrote"))?;
    match (&line, is_first) {
        (Line::File { format, version }, true) if format == FORMAT && *version == VERSION => {
            Ok(Some(line))
        }
        (Line::File { format, version }, _) if format == FORMAT => {
            bail!("version {version}; expected {VERSION}, in the first line alone")
        }
        (Line::File { .. }, _) | (_, true) => {
            bail!("no file of sessions; expected what `steer sessions export` wrote")
        }
        (Line::Session(row) | Line::KeyName(row), false) => {
            let is_name = matches!(line, Line::KeyName(_));
            if (row.bytes()?.0 == Kind::KeyName) != is_name {
                bail!("kind {:?} of a line of the other kind", row.kind);
            }
            Ok(Some(line))
        }
    }
}

/// Why a line is not taken.
#[derive(Clone, Copy)]
enum Left {
    Elsewhere,
    Expired,
}

impl Left {
    const fn count(self, took: &mut Imported) {
        match self {
            Self::Elsewhere => took.elsewhere += 1,
            Self::Expired => took.expired += 1,
        }
    }
}

/// Where a line's identifier stands here.
struct Place {
    key: SessionKey,
    owner: u16,
    first_seen: u32,
    last_seen: u32,
}

/// Numbers of this gateway, by what they stand for, and the other way round.
struct Names {
    services: HashMap<u16, Service>,
    vips: HashMap<Service, Vip>,
    owners: HashMap<u16, SocketAddr>,
    /// Backends that stand in a pool, by the pool's number and theirs.
    backends: HashMap<(u16, SocketAddr), u16>,
}

impl Names {
    fn read(plane: &Plane) -> Result<Self> {
        let vips = plane.vips()?.into_iter().map(|(at, vip)| (Service::of(&at), vip));
        let vips = vips.collect::<HashMap<_, _>>();
        let services = vips.iter().map(|(at, vip)| (vip.id, *at)).collect();
        let (mut owners, mut backends) = (HashMap::new(), HashMap::new());
        for (id, backend) in plane.backends()? {
            let (id, address) = (id as u16, socket(&backend.endpoint));
            owners.insert(id, address);
            if backend.flags & BACKEND_PRESENT != 0 {
                backends.insert((backend.vip_id, address), id);
            }
        }
        Ok(Self { services, vips, owners, backends })
    }

    /// The line of an identifier, but for what only one kind has; `None` where its pool or owner is
    /// forgotten.
    fn row(&self, key: &SessionKey, owner: u16, [first, last]: [u32; 2], now: u32) -> Option<Row> {
        let id = key.bytes.get(..usize::from(key.len))?;
        Some(Row {
            pool: *self.services.get(&key.vip)?,
            kind: Kind::from_number(key.kind)?.word().to_owned(),
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            owner: *self.owners.get(&owner)?,
            age: clock::age(now, first),
            idle: clock::age(now, last),
            uses: 0,
            tail: 0,
            seen: Vec::new(),
        })
    }

    fn place(&self, row: &Row, now: u32) -> Result<Result<Place, Left>> {
        let Some(vip) = self.vips.get(&row.pool) else { return Ok(Err(Left::Elsewhere)) };
        let Some(owner) = self.backends.get(&(vip.id, row.owner)) else {
            return Ok(Err(Left::Elsewhere));
        };
        let (kind, bytes) = row.bytes()?;
        let timeout = if kind == Kind::KeyName { vip.name_timeout } else { vip.session_timeout };
        let is_over =
            kind != Kind::KeyName && vip.session_limit != 0 && row.age > vip.session_limit;
        if row.idle > timeout || is_over {
            return Ok(Err(Left::Expired));
        }
        let key = SessionKey::new(vip.id, kind, &bytes).context("an identifier of no length")?;
        let [first_seen, last_seen] = [row.age, row.idle].map(|age| now.wrapping_sub(age));
        Ok(Ok(Place { key, owner: *owner, first_seen, last_seen }))
    }
}

impl Row {
    /// What it is an identifier of, and its bytes.
    fn bytes(&self) -> Result<(Kind, Vec<u8>)> {
        let kinds = [Kind::SessionId, Kind::Ticket, Kind::KeyName];
        let kind = kinds.into_iter().find(|kind| kind.word() == self.kind);
        let kind = kind.with_context(|| {
            format!("kind {:?}; expected session-id, ticket or key-name", self.kind)
        })?;
        let digits = self.id.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = digits.chunks(2).map(byte).collect::<Option<Vec<_>>>();
        let bytes = bytes
            .filter(|bytes| digits.len() == 2 * bytes.len() && (1..=32).contains(&bytes.len()));
        let bytes = bytes.context("id: expected 2 to 64 hexadecimal digits, two a byte")?;
        Ok((kind, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "{\"file\":{\"format\":\"steer-sessions\",\"version\":1}}\n";

    fn row() -> Row {
        Row {
            pool: "198.51.100.10:443".parse().unwrap(),
            kind: "session-id".to_owned(),
            id: "ab".repeat(32),
            owner: "10.0.0.1:443".parse().unwrap(),
            age: 90,
            idle: 5,
            uses: 3,
            tail: 0,
            seen: Vec::new(),
        }
    }

    fn names() -> Names {
        let service = row().pool;
        let vip = Vip { id: 3, session_timeout: 600, name_timeout: 50, ..Vip::default() };
        Names {
            services: HashMap::from([(3, service)]),
            vips: HashMap::from([(service, vip)]),
            owners: HashMap::from([(7, row().owner)]),
            backends: HashMap::from([((3, row().owner), 7)]),
        }
    }

    fn read(text: &str) -> Result<Vec<Option<Line>>> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        let mut lines = Vec::new();
        each(file.path(), |line| {
            lines.push(line);
            Ok(())
        })?;
        Ok(lines)
    }

    #[test]
    fn a_row_means_the_same_wherever_and_whenever_it_is_read() {
        let (names, kind) = (names(), Kind::SessionId);
        let key = SessionKey::new(3, kind, &[0xab; 32]).unwrap();
        let written = names.row(&key, 7, [1000 - 90, 1000 - 5], 1000).unwrap();
        assert_eq!(Row { uses: 3, ..written }, row());
        // A machine that runs for a minute; the clock of the other one was further on.
        for now in [60, 1000, u32::MAX] {
            let place = names.place(&row(), now).unwrap().ok().unwrap();
            assert_eq!((place.key, place.owner), (key, 7));
            assert_eq!(now.wrapping_sub(place.last_seen), 5);
            assert_eq!(now.wrapping_sub(place.first_seen), 90);
        }
        for (pool, owner) in
            [("198.51.100.11:443", "10.0.0.1:443"), ("198.51.100.10:443", "10.0.0.2:443")]
        {
            let (pool, owner) = (pool.parse().unwrap(), owner.parse().unwrap());
            let elsewhere = names.place(&Row { pool, owner, ..row() }, 1000).unwrap();
            assert!(matches!(elsewhere, Err(Left::Elsewhere)));
        }
        let old = names.place(&Row { idle: 601, ..row() }, 1000).unwrap();
        assert!(matches!(old, Err(Left::Expired)));
        let name = Row { kind: "key-name".to_owned(), idle: 51, ..row() };
        assert!(matches!(names.place(&name, 1000).unwrap(), Err(Left::Expired)));
    }

    #[test]
    fn lines_are_read_as_they_are_written_and_those_of_a_later_version_are_left() {
        let mut text = HEAD.as_bytes().to_vec();
        let name =
            Row { kind: "key-name".to_owned(), tail: 9, seen: vec!["proven".to_owned()], ..row() };
        let lines = [Line::Session(row()), Line::KeyName(name)];
        lines.iter().for_each(|line| write(&mut text, line).unwrap());
        text.extend_from_slice(b"{\"re-homed\":{\"at\":1}}\n");
        let read = read(&String::from_utf8(text).unwrap()).unwrap();
        assert_eq!(read[1..], [Some(lines[0].clone()), Some(lines[1].clone()), None]);
    }

    #[test]
    fn what_is_no_such_file_is_refused_with_its_line() {
        let session = serde_json::to_string(&Line::Session(row())).unwrap();
        let with =
            |old: &str, new: &str| format!("{HEAD}{session}\n{}\n", session.replace(old, new));
        for (text, expected) in [
            (String::new(), "is empty"),
            ("hello\n".to_owned(), ":1: no JSON object"),
            (format!("{session}\n"), ":1: no file of sessions"),
            (HEAD.replace('1', "2"), ":1: version 2"),
            (format!("{HEAD}{HEAD}"), ":2: version 1; expected 1, in the first line alone"),
            (with("abab", "xyz0"), ":3: id: expected 2 to 64 hexadecimal digits"),
            (with("\"abab", "\"ab"), ""),
            (with("session-id", "key-name"), ":3: kind"),
            (with("session-id", "cookie"), ":3: kind \"cookie\"; expected session-id"),
            (with("10.0.0.1:443", "nobody"), ":3: "),
            (with("\"age\":90", "\"age\":-1"), ":3: "),
            (format!("{HEAD}{}", "x".repeat(5000)), ":2: a line of more than 4096 bytes"),
        ] {
            match read(&text) {
                Err(error) => {
                    let told = format!("{error:#}");
                    assert!(told.contains(expected) && !expected.is_empty(), "{text}: {told}");
                }
                Ok(_) => assert!(expected.is_empty(), "{text}"),
            }
        }
    }
}
