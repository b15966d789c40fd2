//! How many instructions the verifier walked, and how many it may: `docs/verified-instructions.tsv`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::tree::Tree;

/// Growth that is let pass, in percent of what is recorded.
const GROWTH: u64 = 20;

const HEADING: &str = "program\tkernel\tinstructions";

/// Instructions by program and kernel (`6.1`).
#[derive(Default)]
pub(crate) struct Counts(BTreeMap<(String, String), u64>);

impl Counts {
    /// Takes a line `program TAB kernel TAB instructions`; tells whether it was one.
    pub(crate) fn take(&mut self, line: &str) -> bool {
        let mut fields = line.split('\t');
        let (Some(program), Some(kernel), Some(count), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        let Ok(count) = count.trim().parse() else { return false };
        self.0.insert((program.to_owned(), kernel.to_owned()), count);
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
            ensure!(counts.take(line), "read {}: `{line}` is not program, kernel, instructions", file.display());
        }
        Ok(counts)
    }

    /// Replaces what is recorded for the kernels that were tried.
    pub(crate) fn record(&self, tree: &Tree) -> Result<()> {
        let mut all = Self::recorded(tree)?;
        all.0.retain(|(_, kernel), _| !self.0.keys().any(|(_, tried)| tried == kernel));
        all.0.extend(self.0.clone());
        let rows = all.0.iter().map(|((program, kernel), count)| format!("{program}\t{kernel}\t{count}\n"));
        let text = format!("{HEADING}\n{}", rows.collect::<String>());
        fs::write(file(tree), text).context("write the record of verified instructions")
    }

    /// Prints each count beside its record and fails on growth of more than a fifth.
    pub(crate) fn judge(&self, recorded: &Counts) -> Result<()> {
        let mut grown = Vec::new();
        println!("{:<24} {:<8} {:>12} {:>12}", "program", "kernel", "instructions", "recorded");
        for (key @ (program, kernel), count) in &self.0 {
            let record = recorded.0.get(key);
            let shown = record.map_or("none".to_owned(), u64::to_string);
            println!("{program:<24} {kernel:<8} {count:>12} {shown:>12}");
            if record.is_some_and(|record| exceeds(*count, *record)) {
                grown.push(format!("{program} on {kernel}"));
            }
        }
        if !grown.is_empty() {
            bail!(
                "the verifier walks over {GROWTH} % more than recorded in {}; `cargo xtask verify --record` accepts that",
                grown.join(", ")
            );
        }
        Ok(())
    }
}

fn exceeds(count: u64, recorded: u64) -> bool {
    count * 100 > recorded * (100 + GROWTH)
}

fn file(tree: &Tree) -> PathBuf {
    tree.root().join("docs/verified-instructions.tsv")
}

#[cfg(test)]
mod tests {
    use super::{Counts, exceeds};

    #[test]
    fn takes_only_lines_of_program_kernel_and_count() {
        let mut counts = Counts::default();
        assert!(counts.take("steer_tc\t6.1\t27300"));
        assert!(!counts.take("loading steer_tc"));
        assert!(!counts.take("steer_tc\t6.1\tmany"));
        assert!(!counts.take("steer_tc\t6.1\t1\t2"));
    }

    #[test]
    fn lets_a_fifth_pass_and_no_more() {
        assert!(!exceeds(120, 100));
        assert!(exceeds(121, 100));
    }

    #[test]
    fn a_program_without_record_passes() {
        let mut counts = Counts::default();
        counts.take("steer_tc\t6.1\t27300");
        assert!(counts.judge(&Counts::default()).is_ok());
    }
}
