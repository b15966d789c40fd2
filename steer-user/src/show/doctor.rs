//! `steer doctor` for people.

use crate::doctor::{Diagnosis, FindingState};

/// A line for each finding, and the sum below.
pub(super) fn text(diagnosis: &Diagnosis) -> String {
    let width = diagnosis.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let lines = diagnosis.findings.iter().map(|finding| {
        let state = finding.state.word();
        format!("{state:<8} {:<width$}  {}", finding.check, finding.text)
    });
    let count = |state| diagnosis.findings.iter().filter(|f| f.state == state).count();
    let sum = format!(
        "{}: {} good, {} to look at, {} wrong",
        diagnosis.state.word(),
        count(FindingState::Good),
        count(FindingState::Warning),
        count(FindingState::Wrong)
    );
    lines.chain([sum]).collect::<Vec<_>>().join("\n")
}
