//! What is logged, as `STEER_LOG` says: a level, for steer's own modules. What it is built from
//! logs its warnings only.

use std::env;

use log::LevelFilter;

use crate::show;

const VARIABLE: &str = "STEER_LOG";
/// Crates of this project, as log targets.
const OWN: [&str; 2] = ["steer_user", "steer_common"];
const DEFAULT: LevelFilter = LevelFilter::Info;

/// Starts logging to standard error. A level that is none is told, and never silences a warning.
pub fn start() {
    let said = env::var_os(VARIABLE).map(|word| word.to_string_lossy().into_owned());
    let (level, complaint) = level(said.as_deref());
    let mut builder = env_logger::Builder::new();
    // Netlink answers that a crate cannot match are no news for an operator.
    builder
        .filter_level(LevelFilter::Warn.min(level))
        .filter_module("netlink_proto", LevelFilter::Error.min(level));
    for own in OWN {
        builder.filter_module(own, level);
    }
    builder.init();
    if let Some(complaint) = complaint {
        show::note(complaint);
    }
}

/// The level that was asked for, and what is wrong with the word.
fn level(said: Option<&str>) -> (LevelFilter, Option<String>) {
    let Some(said) = said.filter(|said| !said.is_empty()) else { return (DEFAULT, None) };
    match said.parse() {
        Ok(level) => (level, None),
        Err(_) => {
            let complaint = format!(
                "{VARIABLE}={said:?} is no level; expected off, error, warn, info, debug or trace: logging at info"
            );
            (DEFAULT, Some(complaint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_in_any_case_and_nothing_means_info() {
        assert_eq!(level(None), (LevelFilter::Info, None));
        assert_eq!(level(Some("")), (LevelFilter::Info, None));
        for (word, wanted) in
            [("warn", LevelFilter::Warn), ("DEBUG", LevelFilter::Debug), ("off", LevelFilter::Off)]
        {
            assert_eq!(level(Some(word)), (wanted, None));
        }
    }

    #[test]
    fn a_misspelt_level_is_told_and_silences_nothing() {
        for word in ["verbose", "warning", "debugg", "steer=debug", "1", " info"] {
            let (level, complaint) = level(Some(word));
            assert_eq!(level, LevelFilter::Info, "{word}");
            assert!(
                complaint.unwrap().contains("expected off, error, warn, info, debug or trace"),
                "{word}"
            );
        }
    }
}
