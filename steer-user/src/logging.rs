//! What is logged, as `STEER_LOG` says: a level, for steer's own modules. What it is built from
//! logs its warnings only. And how: as text, for the journal, or as JSON.

use std::{
    env, fmt,
    io::{self, Write},
};

use clap::ValueEnum;
use log::{Level, LevelFilter};
use rustix::stdio;
use serde::Serialize;

use crate::show;

const VARIABLE: &str = "STEER_LOG";
/// Crates of this project, as log targets.
const OWN: [&str; 2] = ["steer_user", "steer_common"];
const DEFAULT: LevelFilter = LevelFilter::Info;

/// How a line of the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// For people: time, level, module, text. The journal, which has times and levels of its own,
    /// gets the text, and the level in its own way.
    #[default]
    Text,
    /// One JSON object a line: time, level, target, message.
    Json,
}

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Text,
    Journal,
    Json,
}

/// A line as JSON.
#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, in UTC.
    time: String,
    level: &'a str,
    target: &'a str,
    message: String,
}

/// Starts logging to standard error. A level that is none is told, and never silences a warning.
/// False where every line there has a form that others read.
pub fn start(format: LogFormat) -> bool {
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
    let shape = match format {
        LogFormat::Json => Shape::Json,
        LogFormat::Text if is_journal() => Shape::Journal,
        LogFormat::Text => Shape::Text,
    };
    if shape != Shape::Text {
        builder.format(move |out, record| {
            let time = out.timestamp_millis().to_string();
            let (level, target) = (record.level(), record.target());
            write(out, shape, time, level, target, record.args())
        });
    }
    builder.init();
    match complaint {
        Some(complaint) if shape == Shape::Text => show::note(complaint),
        Some(complaint) => log::warn!("{complaint}"),
        None => {}
    }
    shape == Shape::Text
}

/// Whether standard error goes to systemd's journal, which says so by device and inode.
fn is_journal() -> bool {
    let Some(stream) = env::var_os("JOURNAL_STREAM") else { return false };
    let stat = rustix::fs::fstat(stdio::stderr());
    stat.is_ok_and(|stat| *stream == *format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Writes a line; for the journal each line of a text has its level (sd-daemon(3)).
fn write(
    out: &mut impl Write,
    shape: Shape,
    time: String,
    level: Level,
    target: &str,
    text: &fmt::Arguments<'_>,
) -> io::Result<()> {
    if shape != Shape::Json {
        let priority = match level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        let said = format!("{target}: {text}");
        return said.lines().try_for_each(|line| writeln!(out, "<{priority}>{line}"));
    }
    let level = level.as_str().to_ascii_lowercase();
    let line = Line { time, level: &level, target, message: text.to_string() };
    serde_json::to_writer(&mut *out, &line)?;
    writeln!(out)
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
    use serde_json::{Value, json};

    use super::*;

    fn written(shape: Shape, level: Level, text: &str) -> String {
        let mut out = Vec::new();
        let time = "2026-11-30T03:00:00.000Z".to_owned();
        write(&mut out, shape, time, level, "steer_user::agent", &format_args!("{text}")).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_journal_gets_a_level_for_each_line_and_no_time() {
        let text = written(Shape::Journal, Level::Warn, "one\ntwo");
        assert_eq!(text, "<4>steer_user::agent: one\n<4>two\n");
        for (level, n) in [(Level::Error, 3), (Level::Info, 6), (Level::Debug, 7)] {
            assert!(written(Shape::Journal, level, "one").starts_with(&format!("<{n}>steer")));
        }
    }

    #[test]
    fn json_is_one_object_a_line_whatever_is_said() {
        let text = written(Shape::Json, Level::Info, "a \"name\"\nand more");
        assert_eq!(text.lines().count(), 1);
        let wanted = json!({
            "time": "2026-11-30T03:00:00.000Z",
            "level": "info",
            "target": "steer_user::agent",
            "message": "a \"name\"\nand more",
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), wanted);
    }

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
