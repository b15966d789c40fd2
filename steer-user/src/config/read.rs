//! From text to the file's shape. What cannot be read is noted and left out, and the rest is read
//! again, so that one look finds all that is wrong.

use std::{collections::HashSet, ops::Range};

use serde::Deserialize as _;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

use super::{ConfigError, error::Source, raw};

/// Errors that are told of one file.
const ERRORS_MAX: usize = 20;
/// Keys that other parts of the file refer to, or that tell what a table may say: without one of
/// them what is wrong elsewhere may only follow from it.
const NAMING: [&str; 9] =
    ["address", "name", "pool", "shape", "outside", "inside", "vlans", "exempt", "backend"];

/// The file's shape, as far as it can be judged; `None` where that would find errors that only
/// follow from others.
pub(super) fn read(source: &Source<'_>) -> Option<raw::File> {
    let (mut table, errors) = DeTable::parse_recoverable(source.text);
    let mut reading = Reading {
        source,
        lines: HashSet::new(),
        left_out: HashSet::new(),
        whole: errors.is_empty(),
    };
    for error in errors.iter().take(ERRORS_MAX) {
        reading.note(source.toml_error(error));
    }
    for _ in 0..ERRORS_MAX {
        match raw::File::deserialize(Deserializer::from(table.clone())) {
            Ok(raw) => return reading.whole.then_some(raw),
            Err(error) => {
                let at = error.span()?;
                let found = leave_out(table.get_mut(), &at);
                reading.meet(&error, found.as_ref());
                found?;
            }
        }
    }
    None
}

/// What was met so far.
struct Reading<'a> {
    source: &'a Source<'a>,
    /// Lines of which an error is told.
    lines: HashSet<usize>,
    /// Keys that were left out, each with the place of its table.
    left_out: HashSet<(usize, String)>,
    /// Whether nothing is missing that other parts depend on.
    whole: bool,
}

impl Reading<'_> {
    /// Notes an error, unless it is of a line that has one, or tells that a key is missing which
    /// was left out.
    fn meet(&mut self, error: &toml::de::Error, found: Option<&LeftOut>) {
        let follows = match found {
            Some(LeftOut::Table { at }) => {
                let missing = error.message().strip_prefix("missing field `");
                let missing = missing.and_then(|rest| rest.split('`').next());
                !self.whole
                    && missing.is_some_and(|key| self.left_out.contains(&(*at, key.to_owned())))
            }
            Some(LeftOut::Key { .. }) | None => false,
        };
        if !follows {
            self.note(self.source.toml_error(error));
        }
        match found {
            Some(LeftOut::Key { table, key }) => {
                self.whole &= !NAMING.contains(&key.as_str());
                self.left_out.insert((*table, key.clone()));
            }
            Some(LeftOut::Table { .. }) | None => self.whole = false,
        }
    }

    fn note(&mut self, error: ConfigError) {
        if self.lines.insert(error.line) {
            self.source.note::<()>(Err(error));
        }
    }
}

/// What was taken out of a file.
enum LeftOut {
    /// A key, of the table that begins at this byte.
    Key { table: usize, key: String },
    /// The table of a list that begins at this byte.
    Table { at: usize },
}

/// Takes out of a table what an error speaks about: the innermost key around it, or the table of a
/// list that lacks something.
fn leave_out(table: &mut DeTable<'_>, at: &Range<usize>) -> Option<LeftOut> {
    leave_out_of(table, 0, at)
}

fn leave_out_of(table: &mut DeTable<'_>, begin: usize, at: &Range<usize>) -> Option<LeftOut> {
    let around = |span: Range<usize>| span.start <= at.start && at.end <= span.end;
    let mut gone = None;
    for (key, value) in table.iter_mut() {
        if around(key.span()) && key.span() == *at {
            gone = Some(key.get_ref().to_string());
            break;
        }
        let span = value.span();
        match value.get_mut() {
            DeValue::Table(inner) => {
                if let Some(found) = leave_out_of(inner, span.start, at) {
                    return Some(found);
                }
            }
            DeValue::Array(list) if list.iter().any(|item| item.get_ref().is_table()) => {
                if let Some(found) = leave_out_of_list(list, at) {
                    return Some(found);
                }
            }
            _ => {}
        }
        if around(span) {
            gone = Some(key.get_ref().to_string());
            break;
        }
    }
    let key = gone?;
    table.remove(key.as_str());
    Some(LeftOut::Key { table: begin, key })
}

fn leave_out_of_list(list: &mut DeArray<'_>, at: &Range<usize>) -> Option<LeftOut> {
    for item in list.iter_mut() {
        let begin = item.span().start;
        if let DeValue::Table(inner) = item.get_mut()
            && let Some(found) = leave_out_of(inner, begin, at)
        {
            return Some(found);
        }
    }
    let lacking =
        list.iter().position(|item| item.span().start <= at.start && at.end <= item.span().end)?;
    let begin = list.get(lacking)?.span().start;
    let items = std::mem::replace(list, DeArray::new()).into_iter().enumerate();
    items.filter(|(number, _)| *number != lacking).for_each(|(_, item)| list.push(item));
    Some(LeftOut::Table { at: begin })
}
