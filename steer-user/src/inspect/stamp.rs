//! When packets were captured: what the stamps of a file mean.

const SECOND: u64 = 1_000_000_000;

/// How an interface's stamps are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// Ticks of a second; 0: more than can be counted, and no stamp is told.
    ticks: u64,
    /// Seconds to be added.
    offset: i64,
}

impl Clock {
    /// A pcap file's: nanoseconds or microseconds behind the second.
    pub(super) fn of_pcap(nanoseconds: bool) -> Self {
        Self { ticks: if nanoseconds { SECOND } else { SECOND / 1000 }, offset: 0 }
    }

    /// An interface's of a pcapng file: a negative power of ten, or with the highest bit of two
    /// (draft-ietf-opsawg-pcapng 4.2).
    pub(super) fn of_pcapng(resolution: u8, offset: i64) -> Self {
        const OF_TWO: u8 = 0x80;
        let power = u32::from(resolution & !OF_TWO);
        let base: u64 = if resolution & OF_TWO != 0 { 2 } else { 10 };
        Self { ticks: base.checked_pow(power).unwrap_or(0), offset }
    }

    /// Nanoseconds since 1970 of a stamp that counts ticks.
    pub(super) fn whole(&self, ticks: u64) -> Option<u64> {
        self.split(ticks.checked_div(self.ticks)?, ticks % self.ticks)
    }

    /// Nanoseconds since 1970 of a stamp that counts seconds, and ticks behind them.
    pub(super) fn split(&self, seconds: u64, ticks: u64) -> Option<u64> {
        if self.ticks == 0 {
            return None;
        }
        let behind = u128::from(ticks) * u128::from(SECOND) / u128::from(self.ticks);
        let seconds = seconds.checked_add_signed(self.offset)?;
        seconds.checked_mul(SECOND)?.checked_add(u64::try_from(behind).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_of_seconds_and_what_the_file_counts_behind_them() {
        assert_eq!(Clock::of_pcap(false).split(7, 5), Some(7_000_005_000));
        assert_eq!(Clock::of_pcap(true).split(7, 5), Some(7_000_000_005));
        assert_eq!(Clock::of_pcapng(6, 0).whole(7_000_005), Some(7_000_005_000));
        assert_eq!(Clock::of_pcapng(9, 0).whole(7_000_000_005), Some(7_000_000_005));
        assert_eq!(Clock::of_pcapng(0, 3).whole(7), Some(10_000_000_000));
    }

    #[test]
    fn a_power_of_two_is_one_too() {
        assert_eq!(Clock::of_pcapng(0x80 | 10, 0).whole(2 * 1024 + 512), Some(2_500_000_000));
        assert_eq!(Clock::of_pcapng(0x80, 0).whole(2), Some(2_000_000_000));
    }

    #[test]
    fn what_cannot_be_counted_is_not_told() {
        assert_eq!(Clock::of_pcapng(20, 0).whole(7), None);
        assert_eq!(Clock::of_pcapng(0x80 | 64, 0).whole(7), None);
        assert_eq!(Clock::of_pcapng(0, 0).whole(u64::MAX), None);
        assert_eq!(Clock::of_pcapng(0, -8).whole(7), None);
    }
}
