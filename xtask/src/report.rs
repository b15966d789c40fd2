//! What became of each step of `cargo xtask ci`, as a table.

use std::fmt;

/// What became of a step that did not fail.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It passed.
    Passed,
    /// It was not run, and why.
    Skipped(String),
}

/// Each step with what became of it; in the order in which they are run.
pub(crate) struct Report(Vec<(&'static str, State)>);

enum State {
    Done(Outcome),
    Failed,
    NotReached,
}

impl Report {
    /// Steps that are still to be run.
    pub(crate) fn new(steps: impl IntoIterator<Item = &'static str>) -> Self {
        Self(steps.into_iter().map(|step| (step, State::NotReached)).collect())
    }

    /// Enters that a step did not fail.
    pub(crate) fn done(&mut self, step: &str, outcome: Outcome) {
        self.set(step, State::Done(outcome));
    }

    /// Enters that a step failed.
    pub(crate) fn failed(&mut self, step: &str) {
        self.set(step, State::Failed);
    }

    fn set(&mut self, step: &str, state: State) {
        if let Some(row) = self.0.iter_mut().find(|(name, _)| *name == step) {
            row.1 = state;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(step, _)| step.len()).max().unwrap_or_default();
        for (step, state) in &self.0 {
            write!(f, "  {step:width$}  ")?;
            match state {
                State::Done(Outcome::Passed) => writeln!(f, "passed")?,
                State::Done(Outcome::Skipped(why)) => writeln!(f, "skipped: {why}")?,
                State::Failed => writeln!(f, "FAILED")?,
                State::NotReached => writeln!(f, "not reached")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_row_and_a_skipped_one_its_reason() {
        let mut report = Report::new(["format", "miri"]);
        report.done("format", Outcome::Passed);
        report.done("miri", Outcome::Skipped("no toolchain has the component miri".to_owned()));
        assert_eq!(
            report.to_string(),
            "  format  passed\n  miri    skipped: no toolchain has the component miri\n"
        );
    }

    #[test]
    fn a_step_that_failed_is_named_and_those_behind_it_were_not_reached() {
        let mut report = Report::new(["format", "lint", "test"]);
        report.done("format", Outcome::Passed);
        report.failed("lint");
        assert_eq!(
            report.to_string(),
            "  format  passed\n  lint    FAILED\n  test    not reached\n"
        );
    }
}
