//! Charts as inline SVG. Colours are classes, which the page's style sheet gives for light and dark.

use std::fmt::Write as _;

/// A part of what is shown: its name and its class.
pub(super) type Part = (&'static str, &'static str);

/// Width of every chart, in its own units.
const WIDTH: f64 = 720.0;
/// Height of a bar, and room from one to the next.
const BAR: f64 = 22.0;
const STEP: f64 = 34.0;
/// Width of labels beside bars, and of numbers behind them.
const LABELS: f64 = 190.0;
const NUMBERS: f64 = 70.0;

/// One bar a row, each divided into parts.
pub(super) fn bars(title: &str, rows: &[(String, Vec<u64>)], parts: &[Part]) -> String {
    let most = rows.iter().map(|(_, values)| values.iter().sum::<u64>()).max().unwrap_or_default();
    let height = STEP * rows.len() as f64;
    let mut svg = open(title, height);
    for (index, (label, values)) in rows.iter().enumerate() {
        let top = STEP * index as f64 + 4.0;
        let middle = top + BAR / 2.0 + 4.5;
        let _ = write!(
            svg,
            r#"<text x="{x}" y="{middle}" text-anchor="end">{}</text>"#,
            escape(label),
            x = LABELS - 10.0
        );
        let mut left = LABELS;
        for (value, part) in values.iter().zip(parts) {
            let width = scaled(*value, most, WIDTH - LABELS - NUMBERS);
            rectangle(&mut svg, [left, top, width, BAR], part, label, *value);
            left += width;
        }
        let _ = write!(
            svg,
            r#"<text x="{x}" y="{middle}" class="number">{}</text>"#,
            count(values.iter().sum()),
            x = left + 8.0
        );
    }
    svg.push_str("</svg>");
    svg + &legend(parts, rows)
}

/// One column a slot, each divided into parts; `ticks` are labels below some of them.
pub(super) fn columns(
    title: &str,
    slots: &[Vec<u64>],
    parts: &[Part],
    label: impl Fn(usize) -> String,
) -> String {
    const HEIGHT: f64 = 190.0;
    const LEFT: f64 = 64.0;
    const TOP: f64 = 12.0;
    /// Slots that have a label below them, about.
    const TICKS: usize = 6;
    let most = slots.iter().map(|values| values.iter().sum::<u64>()).max().unwrap_or_default();
    let mut svg = open(title, TOP + HEIGHT + 26.0);
    for (share, value) in [(0.0, most), (0.5, most / 2), (1.0, 0)] {
        let y = TOP + HEIGHT * share;
        let _ = write!(
            svg,
            r#"<line x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}" class="grid"/><text x="{x}" y="{text}" text-anchor="end">{}</text>"#,
            count(value),
            x = LEFT - 8.0,
            text = y + 4.0
        );
    }
    let step = (WIDTH - LEFT) / slots.len().max(1) as f64;
    for (index, values) in slots.iter().enumerate() {
        let left = LEFT + step * index as f64;
        let mut bottom = TOP + HEIGHT;
        for (value, part) in values.iter().zip(parts) {
            let height = scaled(*value, most, HEIGHT);
            bottom -= height;
            let width = (step - 1.5).clamp(1.0, 60.0);
            rectangle(&mut svg, [left + 0.75, bottom, width, height], part, &label(index), *value);
        }
        if index.is_multiple_of(slots.len().div_ceil(TICKS).max(1)) {
            let _ = write!(
                svg,
                r#"<text x="{left}" y="{y}">{}</text>"#,
                escape(&label(index)),
                y = TOP + HEIGHT + 18.0
            );
        }
    }
    svg.push_str("</svg>");
    let rows: Vec<_> = slots.iter().map(|values| (String::new(), values.clone())).collect();
    svg + &legend(parts, &rows)
}

fn open(title: &str, height: f64) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#, escape(title))
}

fn rectangle(svg: &mut String, place: [f64; 4], part: &Part, label: &str, value: u64) {
    let [x, y, width, height] = place;
    if value == 0 {
        return;
    }
    let _ = write!(
        svg,
        r#"<rect x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}" class="{}"><title>{}: {} {}</title></rect>"#,
        part.1,
        escape(label),
        count(value),
        escape(part.0)
    );
}

/// The parts that are there.
fn legend(parts: &[Part], rows: &[(String, Vec<u64>)]) -> String {
    let mut legend = String::from(r#"<ul class="legend">"#);
    for (index, (name, class)) in parts.iter().enumerate() {
        if rows.iter().any(|(_, values)| values.get(index).is_some_and(|value| *value != 0)) {
            let _ = write!(legend, r#"<li><i class="{class}"></i>{}</li>"#, escape(name));
        }
    }
    legend + "</ul>"
}

fn scaled(value: u64, most: u64, room: f64) -> f64 {
    value as f64 / most.max(1) as f64 * room
}

/// A number with its thousands apart.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Text as it may stand in HTML, in attributes as well.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [Part; 2] = [("accepted", "a"), ("refused", "b")];

    #[test]
    fn bars_are_as_long_as_their_values_and_empty_parts_are_not_there() {
        let rows = [("one".to_owned(), vec![10, 0]), ("two".to_owned(), vec![5, 0])];
        let svg = bars("offers", &rows, &PARTS);
        let widths: Vec<_> = svg.split("width=\"").skip(1).collect();
        assert_eq!(widths.len(), 2, "{svg}");
        assert!(widths[0].starts_with("460.00") && widths[1].starts_with("230.00"), "{svg}");
        assert!(!svg.contains("refused"));
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let rows = [("<script>\"'&".to_owned(), vec![1, 1])];
        let svg = bars("x\" onload=\"", &rows, &PARTS);
        assert!(!svg.contains("<script") && !svg.contains("\" onload"), "{svg}");
    }

    #[test]
    fn charts_of_nothing_are_charts() {
        assert!(bars("none", &[], &PARTS).ends_with("</ul>"));
        assert!(columns("none", &[], &PARTS, |_| String::new()).contains("</svg>"));
        assert!(columns("zero", &[vec![0, 0]], &PARTS, |_| String::new()).contains("</svg>"));
    }
}
