//! The two formats that scrapers read: OpenMetrics, and Prometheus' text format for all who do not
//! ask for it.

/// How metrics are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Text,
}

impl Format {
    /// The one that `Accept` headers prefer; of equals OpenMetrics.
    pub(super) fn wanted<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map(str::parse);
            let quality = quality.map_or(1.0, Result::unwrap_or_default);
            match &kind[..] {
                "application/openmetrics-text" => open = open.max(quality),
                "text/plain" | "text/*" => text = text.max(quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The header `Content-Type`.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// OpenMetrics in this format.
    pub(super) fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => text(&open_metrics),
        }
    }
}

/// In the text format a family of counters has the name of its samples, an info is a gauge, and there
/// are neither units nor an end.
fn text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let (mut name, mut help) = ("", "");
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            (name, help) = described.split_once(' ').unwrap_or((described, ""));
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let kind = typed.rsplit(' ').next().unwrap_or_default();
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            text += &format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            text += line;
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn wants(accept: &str, format: Format) {
        assert_eq!(Format::wanted([accept].into_iter()), format, "{accept}");
    }

    #[test]
    fn a_scraper_gets_the_format_that_it_prefers() {
        wants("*/*", Format::Text);
        wants("", Format::Text);
        wants("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text);
        wants("application/openmetrics-text", Format::OpenMetrics);
        wants(
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
            Format::OpenMetrics,
        );
        wants("application/openmetrics-text;q=0.2, text/plain;q=0.7", Format::Text);
        wants("application/openmetrics-text;q=0", Format::Text);
        wants("application/openmetrics-text;q=much", Format::Text);
    }

    #[test]
    fn the_text_format_names_families_by_their_samples() {
        let open = "# HELP a_bytes What.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{x=\"# y\"} 1\n\
                    # HELP b Who.\n# TYPE b info\nb_info{v=\"1\"} 1\n# HELP c How.\n# TYPE c gauge\nc 3\n# EOF\n";
        let text = "# HELP a_bytes_total What.\n# TYPE a_bytes_total counter\na_bytes_total{x=\"# y\"} 1\n\
                    # HELP b_info Who.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c How.\n# TYPE c gauge\nc 3\n";
        assert_eq!(Format::Text.of(open.to_owned()), text);
        assert_eq!(Format::OpenMetrics.of(open.to_owned()), open);
    }
}
