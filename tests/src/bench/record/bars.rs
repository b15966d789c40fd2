//! Bar charts: groups of bars, one bar per series, each with its figure above it.

use anyhow::{Result, ensure};
use plotters::{
    chart::ChartBuilder,
    element::{Rectangle, Text},
    style::{
        Color as _, TRANSPARENT,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    figure, paint,
    paint::{Area, colour, refused, text},
    short,
};

/// Room between two groups, as a share of a group.
const GAP: f64 = 0.2;

/// A bar chart.
#[derive(Clone, Debug)]
pub struct Bars {
    title: String,
    unit: String,
    groups: Vec<String>,
    series: Vec<(String, Vec<f64>)>,
}

impl Bars {
    /// A chart without bars; `unit` is at its vertical axis, which begins at 0.
    pub fn new(title: &str, unit: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        Self { title: title.to_owned(), unit: unit.to_owned(), groups, series: Vec::new() }
    }

    /// Adds a bar to each group, in their order; of what is no number nothing is drawn.
    #[must_use]
    pub fn series(mut self, name: &str, values: impl IntoIterator<Item = f64>) -> Self {
        self.series.push((name.to_owned(), values.into_iter().collect()));
        self
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn svg(&self) -> Result<String> {
        for (name, values) in &self.series {
            ensure!(
                values.len() == self.groups.len(),
                "{name} has {} bars, not one per group",
                values.len()
            );
        }
        paint::plot(&self.title, self.series.iter().map(|(name, _)| name.as_str()), |area| {
            self.draw(area)
        })
    }

    fn draw(&self, area: &Area<'_>) -> Result<()> {
        let highest = self
            .series
            .iter()
            .flat_map(|(_, values)| values)
            .fold(0.0, |high: f64, &value| high.max(value));
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(32)
            .y_label_area_size(72)
            .build_cartesian_2d(
                0.0..self.groups.len() as f64,
                0.0..(highest * 1.1).max(f64::MIN_POSITIVE),
            )
            .map_err(refused)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_desc(self.unit.as_str())
            .y_label_formatter(&|value| short(*value))
            .light_line_style(TRANSPARENT)
            .label_style(text(14))
            .axis_desc_style(text(15))
            .draw()
            .map_err(refused)?;
        let width = (1.0 - GAP) / self.series.len().max(1) as f64;
        for (index, (_, values)) in self.series.iter().enumerate() {
            for (group, &value) in values.iter().enumerate().filter(|(_, value)| value.is_finite())
            {
                let left = group as f64 + GAP / 2.0 + width * index as f64;
                let bar = Rectangle::new(
                    [(left, 0.0), (left + width * 0.92, value)],
                    colour(index).filled(),
                );
                let above = text(12).pos(Pos::new(HPos::Center, VPos::Bottom));
                let label = Text::new(figure(value), (left + width * 0.46, value), above);
                chart.draw_series([bar]).map_err(refused)?;
                chart.draw_series([label]).map_err(refused)?;
            }
        }
        for (group, name) in self.groups.iter().enumerate() {
            // Below the axis, where the chart itself does not draw.
            let (x, y) = chart.plotting_area().map_coordinate(&(group as f64 + 0.5, 0.0));
            let (left, top) = area.get_base_pixel();
            let below = text(15).pos(Pos::new(HPos::Center, VPos::Top));
            area.draw_text(name, &below, (x - left, y - top + 10)).map_err(refused)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_names_groups_series_and_figures() -> Result<()> {
        let bars = Bars::new("Rates", "handshakes/s", &["full", "resumed"])
            .series("direct", [900.0, 2100.0])
            .series("steer", [880.0, f64::NAN]);
        let svg = bars.svg()?;
        for text in
            ["Rates", "handshakes/s", "full", "resumed", "direct", "steer", "900", "2100", "880"]
        {
            assert!(svg.contains(&format!("\n{text}\n")), "{text} is missing in {svg}");
        }
        assert!(!svg.contains("NaN"), "{svg}");
        Ok(())
    }

    #[test]
    fn a_series_has_one_bar_per_group() {
        assert!(Bars::new("", "", &["one", "two"]).series("short", [1.0]).svg().is_err());
    }
}
