//! `ticket_key_name` and `key_names`: where the names of ticket keys stand, and which ones the
//! operator gave.

use std::{collections::HashMap, fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};
use steer_common::session::NameLayout;
use toml::Spanned;

use super::{ConfigError, error::Source, raw};

/// Most names a backend is given: the current key, the previous one, and room for rotations that
/// overlap. All backends together then fill at most half of the map.
const NAMES_MAX: usize = 8;

/// The layouts that have a word.
const LAYOUTS: [(&str, NameLayout); 4] = [
    ("16@0", NameLayout { at: 0, len: 16 }),
    ("4@0", NameLayout { at: 0, len: 4 }),
    ("16@1", NameLayout { at: 1, len: 16 }),
    ("none", NameLayout { at: 0, len: 0 }),
];

/// Where the name of its key stands in a ticket of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TicketKeyName {
    /// There; or, with length 0, nowhere.
    At(NameLayout),
    /// The agent finds it out.
    Auto,
}

impl Default for TicketKeyName {
    /// As OpenSSL and most others have it (RFC 5077 4).
    fn default() -> Self {
        Self::At(NameLayout { at: 0, len: 16 })
    }
}

impl FromStr for TicketKeyName {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known =
            LAYOUTS.iter().find(|(other, _)| *other == word).map(|(_, layout)| Self::At(*layout));
        let form = "expected \"16@0\", \"4@0\", \"16@1\", \"none\" or \"auto\"";
        let refusal = || format!("`{word}` is no place of a key name; {form}");
        known.or_else(|| (word == "auto").then_some(Self::Auto)).ok_or_else(refusal)
    }
}

impl<'de> Deserialize<'de> for TicketKeyName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The word of a layout: `16@0` is 16 bytes at offset 0; `none` is no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayoutWord(
    /// The layout.
    pub NameLayout,
);

impl fmt::Display for LayoutWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NameLayout { len: 0, .. } => f.write_str("none"),
            NameLayout { at, len } => write!(f, "{len}@{at}"),
        }
    }
}

/// The name of a ticket key, as it stands in tickets.
pub type KeyName = Vec<u8>;

/// The bytes that hexadecimal digits stand for.
fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let values = digits.chars().map(|digit| digit.to_digit(16).map(|value| value as u8));
    let values = values.collect::<Option<Vec<_>>>()?;
    let pairs = values.chunks_exact(2);
    pairs
        .remainder()
        .is_empty()
        .then(|| pairs.map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

/// The names of each backend of a pool, and the layout that follows: names given with `auto` tell
/// it.
pub(super) fn names(
    pool: &raw::Pool,
    source: &Source<'_>,
) -> Result<(TicketKeyName, Vec<Vec<KeyName>>), ConfigError> {
    let mut rules = Rules { source, layout: pool.ticket_key_name, taken: HashMap::new() };
    let names =
        pool.backend.iter().map(|backend| rules.backend(backend)).collect::<Result<_, _>>()?;
    Ok((rules.layout, names))
}

struct Rules<'a> {
    source: &'a Source<'a>,
    layout: TicketKeyName,
    taken: HashMap<KeyName, SocketAddr>,
}

impl Rules<'_> {
    fn backend(&mut self, backend: &raw::Backend) -> Result<Vec<KeyName>, ConfigError> {
        if let Some(one_too_many) = backend.key_names.get(NAMES_MAX) {
            let message =
                format!("{} names; expected at most {NAMES_MAX}", backend.key_names.len());
            return Err(self.source.error(&one_too_many.span(), message));
        }
        backend.key_names.iter().map(|name| self.name(name, backend.address.get_ref().0)).collect()
    }

    fn name(
        &mut self,
        name: &Spanned<String>,
        backend: SocketAddr,
    ) -> Result<KeyName, ConfigError> {
        let refuse = |message: String| Err(self.source.error(&name.span(), message));
        let digits = name.get_ref();
        let len = match self.layout {
            TicketKeyName::At(NameLayout { len: 0, .. }) => {
                return refuse("ticket_key_name is \"none\"; expected no key_names".to_owned());
            }
            TicketKeyName::At(layout) => layout.len,
            TicketKeyName::Auto if digits.len() == 8 => 4,
            TicketKeyName::Auto => 16,
        };
        let Some(bytes) = from_hex(digits).filter(|bytes| bytes.len() == usize::from(len)) else {
            let or = if self.layout == TicketKeyName::Auto { ", or 8" } else { "" };
            let n = usize::from(len) * 2;
            return refuse(format!(
                "`{digits}` is no key name of this pool; expected {n} hexadecimal digits{or}"
            ));
        };
        if let Some(other) = self.taken.get(&bytes) {
            return refuse(format!(
                "`{digits}` is a key name of {other} already; expected each name once in a pool"
            ));
        }
        self.taken.insert(bytes.clone(), backend);
        self.layout = TicketKeyName::At(match self.layout {
            TicketKeyName::At(layout) => layout,
            TicketKeyName::Auto => NameLayout { at: 0, len },
        });
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_has_its_own_word() {
        for (word, layout) in LAYOUTS {
            assert_eq!(LayoutWord(layout).to_string(), word);
        }
    }

    #[test]
    fn hexadecimal_is_read_in_pairs() {
        assert_eq!(from_hex("00fFa1"), Some(vec![0, 0xff, 0xa1]));
        assert_eq!((from_hex("abc"), from_hex("xy"), from_hex("+1")), (None, None, None));
    }
}
