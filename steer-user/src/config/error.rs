//! Why a configuration is refused: file, line, key, what was expected.

use std::{
    cell::RefCell,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::Spanned;

use super::words;

/// Why a configuration is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The key with its table, as `vip.address`; empty where no key is to blame.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong with a file: a line each, in the file's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(
    /// One at least.
    pub Vec<ConfigError>,
);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.iter().map(ToString::to_string).collect::<Vec<_>>();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Longest message, bytes: it quotes what the file says, whatever that is.
const MESSAGE_MAX: usize = 400;

/// A message on one line that no terminal takes for orders, however long and odd what it quotes is.
fn printable(message: &str) -> String {
    let mut printable = String::new();
    for c in message.chars() {
        if printable.len() >= MESSAGE_MAX {
            printable.push_str("...");
            break;
        }
        match c.is_control() {
            true => printable.extend(c.escape_default()),
            false => printable.push(c),
        }
    }
    printable
}

/// The file that errors speak about.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    /// What was found wrong so far.
    told: RefCell<Vec<ConfigError>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, told: RefCell::default() }
    }

    /// Notes what is wrong, for all errors to be told at once; what is right is handed on.
    pub(super) fn note<T>(&self, judged: Result<T, ConfigError>) -> Option<T> {
        judged.map_err(|error| self.told.borrow_mut().push(error)).ok()
    }

    /// Whether something was found wrong.
    pub(super) fn has_errors(&self) -> bool {
        !self.told.borrow().is_empty()
    }

    /// What was found wrong, in the order of finding.
    pub(super) fn errors(self) -> Vec<ConfigError> {
        self.told.into_inner()
    }
}

impl Source<'_> {
    /// The error at a value's place.
    pub(super) fn error(&self, span: &Range<usize>, message: impl Into<String>) -> ConfigError {
        let (line, key) = self.place(span.start);
        ConfigError {
            file: self.file.into(),
            line,
            key: printable(&key),
            message: printable(&message.into()),
        }
    }

    /// Refuses a key that stands in the wrong table, and says why.
    pub(super) fn refuse<T>(
        &self,
        key: &str,
        value: &Option<Spanned<T>>,
        why: &str,
    ) -> Result<(), ConfigError> {
        match value {
            Some(value) => Err(self.error(&value.span(), format!("`{key}` is {why}"))),
            None => Ok(()),
        }
    }

    /// The error of the file as a whole.
    pub(super) fn whole(&self, message: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.into(),
            line: 1,
            key: String::new(),
            message: printable(&message.into()),
        }
    }

    /// The parser's error in our form; it puts several sentences on several lines. A table above
    /// whose name is wrong is what it comes of.
    pub(super) fn toml_error(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message().trim().replace('\n', ", ");
        let error = self.error(&error.span().unwrap_or(0..0), words::plain(&message));
        let mut above = self.text.lines().take(error.line).enumerate();
        match above.find_map(|(before, line)| {
            Some((before + 1, table_name(line)?, words::wrong_table(line)?))
        }) {
            Some((line, table, message)) => {
                ConfigError { line, key: printable(table), message: printable(&message), ..error }
            }
            None => error,
        }
    }

    /// Line and key of an offset: the text before `=` on its line, or above where a list goes on
    /// over several lines, behind the name of the table above it.
    fn place(&self, offset: usize) -> (usize, String) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let above = self.text.lines().take(line).collect::<Vec<_>>();
        if let Some(table) = above.last().and_then(|here| table_name(here)) {
            return (line, table.to_owned());
        }
        let key = above
            .iter()
            .rev()
            .take_while(|line| table_name(line).is_none())
            .find_map(|line| line.split_once('='));
        let key = key.map_or("", |(key, _)| key.trim());
        let table = above.iter().rev().find_map(|line| table_name(line)).unwrap_or_default();
        let name = [table, key]
            .iter()
            .filter(|part| !part.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(".");
        (line, name)
    }
}

/// The name in a table's header line: `[[vip.backend]]` gives `vip.backend`.
fn table_name(line: &str) -> Option<&str> {
    let inner = line.trim_start().strip_prefix('[')?.trim_start_matches('[');
    inner.split_once(']').map(|(name, _)| name.trim())
}
