//! The clock of the maps (CLOCK_MONOTONIC) and durations as people write them.

use std::{fmt, fs, sync::OnceLock, time::Duration};

use serde::de::{self, Deserializer, Visitor};

/// CLOCK_MONOTONIC in nanoseconds, as `bpf_ktime_get_ns` counts it: that of the kernel, whatever a
/// time namespace (time_namespaces(7)) shows of it.
pub fn nanoseconds() -> u64 {
    static AHEAD: OnceLock<i64> = OnceLock::new();
    let ahead = *AHEAD.get_or_init(|| {
        ahead(&fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default())
    });
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64).wrapping_sub_signed(ahead)
}

/// How far CLOCK_MONOTONIC is ahead of the kernel's, in nanoseconds: a line `monotonic SECONDS
/// NANOSECONDS`; there is none where the kernel has no time namespaces.
fn ahead(offsets: &str) -> i64 {
    let line = offsets.lines().find_map(|line| line.strip_prefix("monotonic"));
    let mut numbers = line
        .unwrap_or_default()
        .split_whitespace()
        .map(|number| number.parse::<i64>().unwrap_or_default());
    let (seconds, nanoseconds) =
        (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// CLOCK_MONOTONIC in seconds, as the stamps in the maps count it.
pub fn seconds() -> u32 {
    (nanoseconds() / 1_000_000_000) as u32
}

/// Seconds from `stamp` until now; 0 for a stamp that is ahead.
pub fn age(now: u32, stamp: u32) -> u32 {
    // A stamp may be older than this machine's clock: it is of what another gateway knew.
    (now.wrapping_sub(stamp) as i32).max(0).cast_unsigned()
}

/// What a duration may look like, for messages.
pub const DURATION_FORM: &str =
    "a duration such as \"10m\", \"2h 11m\", \"500ms\", or a whole number of seconds";

/// Parses a duration: `10m`, `2h 11m`, `500ms`, or a plain number of seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; expected {DURATION_FORM}"))
}

/// Parses a duration of whole seconds, as the maps count them.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.subsec_nanos() == 0 {
        Ok(duration)
    } else {
        Err("expected whole seconds".to_owned())
    }
}

/// Reads a duration from a string or a number of seconds.
pub fn deserialize_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    from.deserialize_any(DurationVisitor)
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(DURATION_FORM)
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Duration, E> {
        let refuse = |_| E::invalid_value(de::Unexpected::Signed(seconds), &self);
        u64::try_from(seconds).map(Duration::from_secs).map_err(refuse)
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Duration, E> {
        Ok(Duration::from_secs(seconds))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse_duration(text).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("600"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("2h 11m"), Ok(Duration::from_secs(7860)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn a_duration_without_meaning_is_refused_with_what_was_expected() {
        assert!(parse_duration("soon").unwrap_err().contains("expected a duration"));
    }

    #[test]
    fn a_time_namespaces_offset_is_read_as_the_kernel_prints_it() {
        assert_eq!(
            ahead("monotonic      86400         7\nboottime           1         0\n"),
            86_400_000_000_007
        );
        assert_eq!(ahead("monotonic        -10 500000000\n"), -9_500_000_000);
        assert_eq!(ahead(""), 0);
    }

    #[test]
    fn what_counts_seconds_takes_no_fraction() {
        assert_eq!(parse_seconds("1500ms"), Err("expected whole seconds".to_owned()));
        assert_eq!(parse_seconds("2000ms"), Ok(Duration::from_secs(2)));
    }

    #[test]
    fn the_monotonic_clock_moves_on() {
        let before = nanoseconds();
        assert!(nanoseconds() >= before);
        assert_eq!(age(5, 9), 0);
    }
}
