//! Sessions and key names as a file, one JSON object a line: what a gateway knows, for another one or
//! for itself after a reboot. The agent's own file ([`crate::agent`]) also says what operators made of
//! backends. Pools and backends stand in it by name and address, times as ages: so it
//! means the same wherever it is read. It has whole identifiers in it, which link a client's
//! connections; nobody resumes a session by one, for that takes its secret.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write},
    net::SocketAddr,
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use steer_common::{
    session::Kind,
    shared::{KEY_NAME_OPENED_TWO, KEY_NAME_PROVEN, KEY_NAME_SHARED},
};

use crate::{
    agent::{Change, Layout},
    clock,
    plane::Plane,
    rows::{Fact, Names, Told},
    service::Service,
};

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
    File {
        format: String,
        version: u32,
        /// When it was written, seconds since 1970; absent: it is not told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        written: Option<u64>,
    },
    /// What an operator made of a backend.
    Backend(Change),
    /// Where the names of a pool's ticket keys stand.
    Layout(Layout),
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

/// What a file says beside its sessions and key names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Beside {
    /// What operators made of backends.
    pub(crate) changes: Vec<Change>,
    /// Where names of ticket keys were found to stand.
    pub(crate) layouts: Vec<Layout>,
}

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
    /// Lines that say nothing of sessions and key names: of kinds that this version does not know,
    /// and, of an agent's own file, of backends.
    pub other: u64,
}

/// Writes all that is known.
///
/// # Errors
/// When the maps cannot be read, or the file cannot be written.
pub fn export(plane: &Plane, out: &mut impl Write) -> Result<Exported> {
    export_with(plane, &Beside::default(), out)
}

/// As [`export`], with what else is to be said.
///
/// # Errors
/// As [`export`].
pub(crate) fn export_with(
    plane: &Plane,
    beside: &Beside,
    out: &mut impl Write,
) -> Result<Exported> {
    let (names, now) = (Names::read(plane)?, clock::seconds());
    let mut wrote = Exported::default();
    let written = Some(clock::time_of_day());
    let head = Line::File { format: FORMAT.to_owned(), version: VERSION, written };
    let backends = beside.changes.iter().cloned().map(Line::Backend);
    let layouts = beside.layouts.iter().copied().map(Line::Layout);
    let mut lines = std::iter::once(head).chain(backends).chain(layouts);
    let mut written = lines.try_for_each(|line| write(out, &line));
    plane.sessions.for_each(|key, session| {
        let Some(fact) = names.session(&key, &session, now) else { return };
        if written.is_ok() {
            written = write(out, &Line::Session(Row::of(&fact)));
            wrote.sessions += 1;
        }
    })?;
    plane.key_names.for_each(|key, name| {
        let Some(fact) = names.key_name(&key, &name, now) else { return };
        if written.is_ok() {
            written = write(out, &Line::KeyName(Row::of(&fact)));
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
    let (away, _) = read(file)?;
    take(plane, file, away)
}

/// Reads a whole file; how many seconds ago it was written, by the time of day, and what it says
/// beside sessions and key names.
///
/// # Errors
/// With file and line where it cannot be understood.
pub(crate) fn read(file: &Path) -> Result<(u32, Beside)> {
    let (mut away, mut beside) = (0, Beside::default());
    each(file, |line| {
        match line {
            Some(Line::File { written: Some(at), .. }) => {
                // A clock that was set back tells nothing.
                let since = clock::time_of_day().saturating_sub(at);
                away = u32::try_from(since).unwrap_or(u32::MAX);
            }
            Some(Line::Backend(change)) => beside.changes.push(change),
            Some(Line::Layout(layout)) => beside.layouts.push(layout),
            Some(Line::File { .. } | Line::Session(_) | Line::KeyName(_)) | None => {}
        }
        Ok(())
    })?;
    Ok((away, beside))
}

/// Takes over the sessions and key names of a file, `away` seconds after it was written, but for
/// what is known better here.
///
/// # Errors
/// As [`import`].
pub(crate) fn take(plane: &mut Plane, file: &Path, away: u32) -> Result<Imported> {
    let (names, now) = (Names::read(plane)?, clock::seconds());
    let mut took = Imported::default();
    each(file, |line| {
        let (row, known_now) = match &line {
            Some(Line::File { .. }) => return Ok(()),
            Some(Line::Session(row)) => (row, &mut took.sessions),
            Some(Line::KeyName(row)) => (row, &mut took.key_names),
            Some(Line::Backend(_) | Line::Layout(_)) | None => {
                took.other += 1;
                return Ok(());
            }
        };
        match names.take(plane, &row.fact()?.older(away), now)? {
            Told::Taken => *known_now += 1,
            // Tables of sessions and names push out what is old.
            Told::Known | Told::Full => took.known += 1,
            Told::Elsewhere => took.elsewhere += 1,
            Told::Expired => took.expired += 1,
        }
        Ok(())
    })?;
    Ok(took)
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
    let line = match serde_json::from_slice::<Line>(text) {
        Ok(line) => line,
        Err(error) => return not_understood(text, is_first, &error),
    };
    match (&line, is_first) {
        (Line::File { format, version, .. }, true) if format == FORMAT && *version == VERSION => {
            Ok(Some(line))
        }
        (Line::File { format, version, .. }, _) if format == FORMAT => {
            bail!("version {version}; expected {VERSION}, in the first line alone")
        }
        (Line::File { .. }, _) | (_, true) => {
            bail!("no file of sessions; expected what `steer sessions export` wrote")
        }
        (Line::Backend(_) | Line::Layout(_), false) => Ok(Some(line)),
        (Line::Session(row) | Line::KeyName(row), false) => {
            let is_name = matches!(line, Line::KeyName(_));
            if (row.fact()?.kind == Kind::KeyName) != is_name {
                bail!("kind {:?} of a line of the other kind", row.kind);
            }
            Ok(Some(line))
        }
    }
}

/// Of a line that is none of this version's: nothing, where it is of a kind that this version does not
/// know.
fn not_understood(text: &[u8], is_first: bool, error: &serde_json::Error) -> Result<Option<Line>> {
    let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(text)
        .map_err(|_| anyhow!("no JSON object; expected what `steer sessions export` wrote"))?;
    let kinds = ["file", "backend", "layout", "session", "key-name"];
    if is_first || kinds.iter().any(|kind| object.contains_key(*kind)) {
        bail!("{error}; expected what `steer sessions export` wrote");
    }
    Ok(None)
}

impl Row {
    fn of(fact: &Fact) -> Self {
        let Fact { pool, kind, ref id, owner, age, idle, uses, tail, flags } = *fact;
        let seen = SEEN.iter().filter(|(flag, _)| flags & flag != 0);
        Self {
            pool,
            kind: kind.word().to_owned(),
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            owner,
            age,
            idle,
            uses,
            tail,
            seen: seen.map(|(_, word)| (*word).to_owned()).collect(),
        }
    }

    fn fact(&self) -> Result<Fact> {
        let Self { pool, ref kind, ref id, owner, age, idle, uses, tail, ref seen } = *self;
        let kinds = [Kind::SessionId, Kind::Ticket, Kind::KeyName];
        let known = kinds.into_iter().find(|known| known.word() == kind);
        let kind = known
            .with_context(|| format!("kind {kind:?}; expected session-id, ticket or key-name"))?;
        let digits = id.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = digits.chunks(2).map(byte).collect::<Option<Vec<_>>>();
        let bytes = bytes
            .filter(|bytes| digits.len() == 2 * bytes.len() && (1..=32).contains(&bytes.len()));
        let id = bytes.context("id: expected 2 to 64 hexadecimal digits, two a byte")?;
        let seen = SEEN.iter().filter(|(_, word)| seen.iter().any(|said| said == word));
        let flags = seen.fold(0, |flags, (flag, _)| flags | flag);
        Ok(Fact { pool, kind, id, owner, age, idle, uses, tail, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::changes_tests::drain, rows::tests::fact};

    const HEAD: &str = "{\"file\":{\"format\":\"steer-sessions\",\"version\":1}}\n";

    fn row() -> Row {
        Row::of(&fact())
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
    fn lines_are_read_as_they_are_written_and_those_of_a_later_version_are_left() {
        let mut text = HEAD.as_bytes().to_vec();
        let name =
            Row { kind: "key-name".to_owned(), tail: 9, seen: vec!["proven".to_owned()], ..row() };
        let lines = [Line::Session(row()), Line::KeyName(name), Line::Backend(drain())];
        lines.iter().for_each(|line| write(&mut text, line).unwrap());
        text.extend_from_slice(b"{\"re-homed\":{\"at\":1}}\n");
        let read = read(&String::from_utf8(text).unwrap()).unwrap();
        assert_eq!(read[1..], [&lines.map(Some)[..], &[None]].concat());
    }

    /// As the version before this one wrote it, now, an hour ago, and by a clock that was ahead.
    #[test]
    fn the_time_since_a_file_was_written_is_told_as_far_as_a_clock_can() {
        let now = clock::time_of_day();
        for (written, expected) in [
            (None, 0),
            (Some(now - 3600), 3600),
            (Some(now + 86_400), 0),
            (Some(0), u32::try_from(now).unwrap()),
        ] {
            let head = Line::File { format: FORMAT.to_owned(), version: VERSION, written };
            let file = tempfile::NamedTempFile::new().unwrap();
            write(&mut file.as_file(), &head).unwrap();
            write(&mut file.as_file(), &Line::Backend(drain())).unwrap();
            let (away, beside) = super::read(file.path()).unwrap();
            assert!((expected..expected + 60).contains(&away), "{written:?}: {away}");
            assert_eq!(beside.changes, [drain()]);
        }
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
