//! How many instructions the verifier walked, and how many it may:
//! `docs/verified-instructions.tsv`.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf, str::FromStr};

use anyhow::{Context, Result, bail, ensure};

use crate::tree::Tree;

/// Growth that is let pass, in percent of what is recorded for the same kernel.
const GROWTH: u64 = 20;
/// Growth over what is recorded for another patch level of a series: theirs were seen to differ by
/// 5 %.
const GROWTH_IN_SERIES: u64 = 25;

const HEADING: &str = "program\tkernel\tinstructions";

/// A kernel by its whole number, `6.1.176`: patch levels of one series have verifiers of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Version {
    series: (u32, u32),
    patch: u32,
}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[major, minor, patch]) => Ok(Self { series: (major, minor), patch }),
            _ => bail!("`{text}` is not a kernel's three numbers"),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { series: (major, minor), patch } = self;
        f.pad(&format!("{major}.{minor}.{patch}"))
    }
}

/// Instructions by program and kernel.
#[derive(Default)]
pub(crate) struct Counts(BTreeMap<(String, Version), u64>);

/// What a count is held to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Budget {
    recorded: u64,
    on: Version,
    /// In percent of what is recorded.
    growth: u64,
}

impl Budget {
    fn is_exceeded_by(self, count: u64) -> bool {
        count * 100 > self.recorded * (100 + self.growth)
    }
}

impl Counts {
    /// Takes a line `program TAB kernel TAB instructions`; tells whether it was one.
    pub(crate) fn take(&mut self, line: &str) -> bool {
        let mut fields = line.split('\t');
        let (Some(program), Some(kernel), Some(count), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        let (Ok(kernel), Ok(count)) = (kernel.parse(), count.trim().parse()) else { return false };
        self.0.insert((program.to_owned(), kernel), count);
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what was counted on another kernel.
    pub(crate) fn extend(&mut self, other: Counts) {
        self.0.extend(other.0);
    }

    /// Reads what is recorded; nothing if nothing is.
    pub(crate) fn recorded(tree: &Tree) -> Result<Self> {
        let file = file(tree);
        if !file.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let mut counts = Self::default();
        for line in text.lines().filter(|line| *line != HEADING && !line.is_empty()) {
            ensure!(
                counts.take(line),
                "read {}: `{line}` is not program, kernel, instructions",
                file.display()
            );
        }
        Ok(counts)
    }

    /// Writes these counts into the record, in the place of those of the same series.
    pub(crate) fn record(self, tree: &Tree) -> Result<()> {
        let all = Self::recorded(tree)?.replaced_by(self);
        let rows = all
            .0
            .iter()
            .map(|((program, kernel), count)| format!("{program}\t{kernel}\t{count}\n"));
        let text = format!("{HEADING}\n{}", rows.collect::<String>());
        fs::write(file(tree), text).context("write the record of verified instructions")
    }

    fn replaced_by(mut self, newer: Self) -> Self {
        self.0.retain(|(_, kernel), _| {
            !newer.0.keys().any(|(_, tried)| tried.series == kernel.series)
        });
        self.extend(newer);
        self
    }

    /// Prints each count beside what it is held to and fails where one has grown over it.
    pub(crate) fn judge(&self, recorded: &Counts) -> Result<()> {
        let mut grown = Vec::new();
        println!(
            "{:<12} {:<9} {:>12} {:>12}  {:<9} {:>6}",
            "program", "kernel", "instructions", "recorded", "on", "limit"
        );
        for ((program, kernel), count) in &self.0 {
            let Some(budget) = recorded.budget(program, *kernel) else {
                println!("{program:<12} {kernel:<9} {count:>12} {:>12}", "none");
                continue;
            };
            let Budget { recorded, on, growth } = budget;
            println!("{program:<12} {kernel:<9} {count:>12} {recorded:>12}  {on:<9} {growth:>+5}%");
            if budget.is_exceeded_by(*count) {
                grown.push(format!(
                    "{program} on {kernel} (over {recorded} of {on} by more than {growth} %)"
                ));
            }
        }
        if !grown.is_empty() {
            bail!(
                "the verifier walks too far: {}; `cargo xtask verify --record` accepts that",
                grown.join(", ")
            );
        }
        Ok(())
    }

    /// What a program is held to on a kernel: its own record; else that of the nearest patch level
    /// of its series; else, where the series has none, the largest of all.
    fn budget(&self, program: &str, kernel: Version) -> Option<Budget> {
        let rows = || {
            self.0
                .iter()
                .filter(|((of, _), _)| of == program)
                .map(|((_, on), recorded)| (*on, *recorded))
        };
        let budget = |growth| move |(on, recorded)| Budget { recorded, on, growth };
        let own = rows().find(|(on, _)| *on == kernel).map(budget(GROWTH));
        let in_series = rows().filter(|(on, _)| on.series == kernel.series);
        let nearest = in_series
            .min_by_key(|(on, _)| on.patch.abs_diff(kernel.patch))
            .map(budget(GROWTH_IN_SERIES));
        let largest = || rows().max_by_key(|(_, recorded)| *recorded).map(budget(GROWTH));
        own.or(nearest).or_else(largest)
    }
}

fn file(tree: &Tree) -> PathBuf {
    tree.root().join("docs/verified-instructions.tsv")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn counts(lines: &[&str]) -> Counts {
        let mut counts = Counts::default();
        for line in lines {
            assert!(counts.take(line), "{line}");
        }
        counts
    }

    fn version(text: &str) -> Version {
        text.parse().expect("a version")
    }

    #[test]
    fn takes_only_lines_of_program_whole_kernel_and_count() {
        let mut counts = Counts::default();
        assert!(counts.take("steer_tc\t6.1.176\t27300"));
        assert!(!counts.take("loading steer_tc"));
        assert!(!counts.take("steer_tc\t6.1\t27300"));
        assert!(!counts.take("steer_tc\t6.1.176\tmany"));
        assert!(!counts.take("steer_tc\t6.1.176\t1\t2"));
    }

    #[test]
    fn lets_a_fifth_pass_and_no_more() {
        let budget = Budget { recorded: 100, on: version("6.1.176"), growth: GROWTH };
        assert!(!budget.is_exceeded_by(120));
        assert!(budget.is_exceeded_by(121));
    }

    #[test]
    fn a_kernel_is_held_to_its_own_row_then_to_the_nearest_of_its_series_then_to_the_largest() {
        let recorded = counts(&[
            "steer_tc\t6.1.176\t300",
            "steer_tc\t6.18.15\t205",
            "steer_tc\t6.18.44\t216",
            "steer_xdp\t6.18.44\t18",
        ]);
        let on = |kernel: &str| recorded.budget("steer_tc", version(kernel)).expect("a budget");
        assert_eq!(on("6.18.44"), Budget { recorded: 216, on: version("6.18.44"), growth: GROWTH });
        assert_eq!(
            on("6.18.20"),
            Budget { recorded: 205, on: version("6.18.15"), growth: GROWTH_IN_SERIES }
        );
        assert_eq!(
            on("6.18.90"),
            Budget { recorded: 216, on: version("6.18.44"), growth: GROWTH_IN_SERIES }
        );
        assert_eq!(on("7.3.4"), Budget { recorded: 300, on: version("6.1.176"), growth: GROWTH });
    }

    #[test]
    fn a_program_without_record_passes() {
        assert!(counts(&["steer_tc\t6.1.176\t27300"]).judge(&Counts::default()).is_ok());
    }

    #[test]
    fn growth_over_the_budget_is_told_with_both_kernels() {
        let error = counts(&["steer_tc\t6.12.117\t126"])
            .judge(&counts(&["steer_tc\t6.12.90\t100"]))
            .expect_err("passed");
        assert!(
            error
                .to_string()
                .contains("steer_tc on 6.12.117 (over 100 of 6.12.90 by more than 25 %)"),
            "{error}"
        );
    }

    #[test]
    fn recording_replaces_the_rows_of_the_same_series_only() {
        let recorded = counts(&["steer_tc\t6.1.176\t300", "steer_tc\t6.12.90\t190"]);
        let now = recorded.replaced_by(counts(&["steer_tc\t6.12.117\t192"]));
        let kept: Vec<String> =
            now.0.iter().map(|((_, kernel), count)| format!("{kernel} {count}")).collect();
        assert_eq!(kept, ["6.1.176 300", "6.12.117 192"]);
    }
}
