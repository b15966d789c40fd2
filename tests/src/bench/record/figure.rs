//! Figures: medians and percentiles of what was measured, and how they are written.

/// The median; of an even number, the upper of the two in the middle; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    percentile(values, 50)
}

/// The value that `percent` of all stay below.
pub fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied()
}

/// Three significant digits, more where they stand before the point: `0.912`, `12.3`, `1234`.
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        below if below < 0.1 => format!("{value:.4}"),
        below if below < 1.0 => format!("{value:.3}"),
        below if below < 10.0 => format!("{value:.2}"),
        below if below < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// As an axis has it: `0.5`, `20`, `1k`, `2.5M`.
pub fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        above if above >= 1e9 => (value / 1e9, "G"),
        above if above >= 1e6 => (value / 1e6, "M"),
        above if above >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = format!("{scaled:.3}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_values() {
        let values: Vec<_> = (0..100).rev().map(f64::from).collect();
        assert_eq!((median(&values), percentile(&values, 99)), (Some(50.0), Some(99.0)));
        assert_eq!((percentile(&values, 100), median(&[])), (Some(99.0), None));
    }

    #[test]
    fn figures_have_three_digits() {
        let written = [0.0, 0.0123, 0.9123, 1.0, 12.34, 1234.5].map(figure);
        assert_eq!(written, ["0", "0.0123", "0.912", "1.00", "12.3", "1234"]);
        assert_eq!([0.5, 20.0, 1e3, 2.5e6, 8e9].map(short), ["0.5", "20", "1k", "2.5M", "8G"]);
    }
}
