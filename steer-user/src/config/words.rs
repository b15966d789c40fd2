//! The parser's errors in the words of who writes the file: tables and keys by their right names,
//! not types of the program.

/// Every table with its brackets.
const TABLES: [(&str, &str); 11] = [
    ("sizes", "[sizes]"),
    ("takeover", "[takeover]"),
    ("ha", "[ha]"),
    ("interface", "[[interface]]"),
    ("bridge", "[[bridge]]"),
    ("vip", "[[vip]]"),
    ("vip.backend", "[[vip.backend]]"),
    ("vip.health", "[vip.health]"),
    ("pool", "[[pool]]"),
    ("pool.backend", "[[pool.backend]]"),
    ("pool.health", "[pool.health]"),
];
/// Keys that stand above all tables.
const ABOVE: [&str; 3] = ["pin_dir", "socket", "metrics"];

/// What is wrong with a line, if it begins a table that there is not, or one in the wrong brackets.
pub(super) fn wrong_table(line: &str) -> Option<String> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let name = line.strip_prefix('[')?.strip_suffix(']')?;
    let name =
        name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).trim();
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    if let Some((_, right)) = TABLES.iter().find(|(known, _)| *known == name) {
        let wrong = line.starts_with("[[") != right.starts_with("[[");
        return wrong.then(|| format!("wrong brackets; expected {right}"));
    }
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned).unwrap_or_default();
    let near = nearest(name, TABLES.iter().map(|(known, _)| *known))
        .or_else(|| TABLES.iter().map(|(known, _)| *known).find(|known| last(known) == last(name)));
    let right = TABLES.iter().find(|(known, _)| Some(*known) == near).map(|(_, right)| *right);
    let all = || TABLES.map(|(_, right)| right).join(", ");
    Some(format!(
        "unknown table; expected {}",
        right.map_or_else(|| format!("one of {}", all()), str::to_owned)
    ))
}

/// The message of a parser, said as people say it.
pub(super) fn plain(message: &str) -> String {
    if let Some((key, expected)) =
        message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'))
    {
        return unknown_key(key, expected);
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("missing key; expected {key}");
    }
    let Some((found, expected)) = message.rsplit_once(", expected ") else {
        return message.to_owned();
    };
    let found = match found {
        "invalid type: map" => "invalid type: table",
        "invalid type: sequence" => "invalid type: list",
        other => other,
    };
    let expected = match expected {
        "a sequence" => "a list",
        "a boolean" => "true or false",
        "a string" => "text in quotes",
        "path string" => "a path in quotes",
        other => other,
    };
    format!("{found}, expected {expected}")
}

/// `expected` has every right key in backquotes.
fn unknown_key(key: &str, expected: &str) -> String {
    let right = expected.split('`').skip(1).step_by(2).collect::<Vec<_>>();
    if let Some(near) = nearest(key, right.iter().copied()) {
        return format!("unknown key `{key}`; expected `{near}`");
    }
    if ABOVE.contains(&key) {
        return format!("`{key}` is no key of this table; expected above all tables");
    }
    let one_of = if right.len() > 1 { "one of " } else { "" };
    format!("unknown key `{key}`; expected {one_of}`{}`", right.join("`, `"))
}

/// The name that is this one but for so many slips of the pen: a third of its letters at most.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let slips = names.map(|right| (strsim::damerau_levenshtein(name, right), right)).min()?;
    (slips.0 * 3 <= slips.1.len()).then_some(slips.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_a_wrong_name_or_in_wrong_brackets_is_told_the_right_one() {
        for (line, right) in [
            ("[[vips]]", "[[vip]]"),
            ("[interface] # eth0", "[[interface]]"),
            ("[[ interfaces ]]", "[[interface]]"),
            ("[vip]", "[[vip]]"),
            ("[bridge]", "[[bridge]]"),
            ("[[bridges]]", "[[bridge]]"),
            ("[[backend]]", "[[vip.backend]]"),
            ("[vips.backend]", "[[vip.backend]]"),
            ("[[vip.backends]]", "[[vip.backend]]"),
            ("[health]", "[vip.health]"),
            ("[vip.healht]", "[vip.health]"),
            ("[pool]", "[[pool]]"),
            ("[[pools.backend]]", "[[pool.backend]]"),
            ("[[pool.health]]", "[pool.health]"),
            ("[[sizes]]", "[sizes]"),
            ("[size]", "[sizes]"),
        ] {
            let told = wrong_table(line).unwrap();
            assert!(told.ends_with(&format!("; expected {right}")), "{line}: {told}");
        }
        assert!(wrong_table("[logging]").unwrap().contains("expected one of [sizes], "));
        for good in [
            "[[vip]]",
            "[sizes]",
            "[vip.health]  # all",
            "",
            "name = \"[vips]\"",
            "[\"aabb\"]",
            "[1, 2]",
            "[]",
        ] {
            assert_eq!(wrong_table(good), None, "{good}");
        }
    }

    #[test]
    fn the_nearest_name_is_told_where_one_is_near() {
        assert_eq!(
            nearest("sesion_timeout", ["session_limit", "session_timeout"].into_iter()),
            Some("session_timeout")
        );
        assert_eq!(nearest("mod", ["mode", "health"].into_iter()), Some("mode"));
        assert_eq!(nearest("socket", ["address", "weight"].into_iter()), None);
    }
}
