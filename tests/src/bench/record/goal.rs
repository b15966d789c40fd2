//! A goal, what was measured of it, and whether that reached it.

use super::{figure, table::Table};

/// A goal of a benchmark.
#[derive(Clone, Debug)]
pub struct Goal {
    what: String,
    measured: f64,
    limit: f64,
    least: bool,
}

impl Goal {
    /// `what`, with its unit, shall be at least so much.
    pub fn at_least(what: &str, measured: f64, limit: f64) -> Self {
        Self { what: what.to_owned(), measured, limit, least: true }
    }

    /// `what`, with its unit, shall be at most so much.
    pub fn at_most(what: &str, measured: f64, limit: f64) -> Self {
        Self { what: what.to_owned(), measured, limit, least: false }
    }

    /// What shall be reached.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Whether it was; what is no number (nothing was measured) never is.
    pub fn is_reached(&self) -> bool {
        if self.least { self.measured >= self.limit } else { self.measured <= self.limit }
    }

    /// For the last line of a benchmark's output.
    pub fn json(&self) -> serde_json::Value {
        let Self { what, measured, limit, least } = self;
        let bound = if *least { "at_least" } else { "at_most" };
        serde_json::json!({ "goal": what, bound: limit, "measured": measured, "reached": self.is_reached() })
    }

    pub(super) fn heading() -> Table {
        Table::new(&["goal", "limit", "measured", ""])
    }

    pub(super) fn cells(&self) -> [String; 4] {
        let bound = if self.least { "at least" } else { "at most" };
        let verdict = if self.is_reached() { "reached" } else { "**missed**" };
        [
            self.what.clone(),
            format!("{bound} {}", figure(self.limit)),
            figure(self.measured),
            verdict.to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_itself_reaches_the_goal() {
        let reached = [0.89, 0.9, 0.91, f64::NAN]
            .map(|measured| Goal::at_least("", measured, 0.9).is_reached());
        assert_eq!(reached, [false, true, true, false]);
        let reached = [0.89, 0.9, 0.91, f64::NAN]
            .map(|measured| Goal::at_most("", measured, 0.9).is_reached());
        assert_eq!(reached, [true, true, false, false]);
    }
}
