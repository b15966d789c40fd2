//! Cuts long hexadecimal words, as identifiers and key names are, to four bytes.

/// Hexadecimal digits of four bytes.
const KEPT: usize = 8;
/// A word of so many digits is an identifier; a number with a letter in it has fewer.
const LONG: usize = 16;
/// Without a letter it may be a number: one that has so many digits is none.
const LONG_NUMBER: usize = 24;

/// The text with every such word cut.
pub(super) fn cut(text: &str) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, word) = rest.split_at(start);
        let end = word.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        done += before;
        let has_letter = word.bytes().any(|digit| digit.is_ascii_alphabetic());
        let is_long = word.len() >= LONG_NUMBER || word.len() >= LONG && has_letter;
        done += if is_long { &word[..KEPT] } else { word };
        if is_long {
            done += "..";
        }
        rest = after;
    }
    done + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_cut_and_numbers_addresses_and_words_are_not() {
        let name = "3d1f0c9a5be2447788120f6ed0a1b2c3";
        assert_eq!(cut(&format!("a \"{name}\", b")), "a \"3d1f0c9a..\", b");
        assert_eq!(cut(&"7".repeat(64)), "77777777..");
        for same in [
            "bytes 12345678901234567890",
            "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff",
            "52:54:00:12:34:56 decade facade",
            "",
            "ünd ß",
        ] {
            assert_eq!(cut(same), same);
        }
    }
}
