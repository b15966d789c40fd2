//! Line charts: how a figure grows with another, on linear or logarithmic axes.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use plotters::{
    chart::ChartBuilder,
    coord::ranged1d::{AsRangedCoord, ValueFormatter},
    element::Circle,
    prelude::IntoLogRange as _,
    series::LineSeries,
    style::{Color as _, RGBColor},
};

use super::{
    paint,
    paint::{Area, colour, refused, text},
    short,
};

/// Lines between those that have a figure.
const FAINT: RGBColor = RGBColor(0xee, 0xee, 0xee);

/// What an axis is of, with its unit, and its scale.
#[derive(Clone, Debug)]
pub struct Axis {
    name: String,
    log: bool,
}

impl Axis {
    /// A linear axis that begins at 0.
    pub fn linear(name: &str) -> Self {
        Self { name: name.to_owned(), log: false }
    }

    /// A logarithmic axis; what is measured on it is above 0.
    pub fn log(name: &str) -> Self {
        Self { name: name.to_owned(), log: true }
    }

    /// From where to where it goes, with some room.
    fn range(&self, values: impl Iterator<Item = f64> + Clone) -> Result<Range<f64>> {
        let high = values.clone().fold(f64::NEG_INFINITY, f64::max);
        let low = values.fold(f64::INFINITY, f64::min);
        ensure!(low.is_finite() && high.is_finite(), "{}: nothing to draw", self.name);
        if !self.log {
            return Ok(low.min(0.0)..(high * 1.05).max(f64::MIN_POSITIVE));
        }
        ensure!(low > 0.0, "{}: {low} has no place on a logarithmic axis", self.name);
        Ok(low / 1.3..high * 1.3)
    }
}

/// A line chart.
#[derive(Clone, Debug)]
pub struct Lines {
    title: String,
    x: Axis,
    y: Axis,
    series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Lines {
    /// A chart without lines.
    pub fn new(title: &str, x: Axis, y: Axis) -> Self {
        Self { title: title.to_owned(), x, y, series: Vec::new() }
    }

    /// Adds a line through these points, which are marked.
    #[must_use]
    pub fn series(mut self, name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.series.push((name.to_owned(), points.into_iter().collect()));
        self
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn svg(&self) -> Result<String> {
        let points = self.series.iter().flat_map(|(_, points)| points);
        let x = self.x.range(points.clone().map(|point| point.0)).context("the horizontal axis")?;
        let y = self.y.range(points.map(|point| point.1)).context("the vertical axis")?;
        let names = self.series.iter().map(|(name, _)| name.as_str());
        paint::plot(&self.title, names, |area| match (self.x.log, self.y.log) {
            (false, false) => self.draw(area, x, y),
            (false, true) => self.draw(area, x, y.log_scale()),
            (true, false) => self.draw(area, x.log_scale(), y),
            (true, true) => self.draw(area, x.log_scale(), y.log_scale()),
        })
    }

    fn draw<X, Y>(&self, area: &Area<'_>, x: X, y: Y) -> Result<()>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(28)
            .x_label_area_size(52)
            .y_label_area_size(72)
            .build_cartesian_2d(x, y)
            .map_err(refused)?;
        chart
            .configure_mesh()
            .x_desc(self.x.name.as_str())
            .y_desc(self.y.name.as_str())
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .light_line_style(FAINT)
            .label_style(text(14))
            .axis_desc_style(text(15))
            .draw()
            .map_err(refused)?;
        for (index, (_, points)) in self.series.iter().enumerate() {
            let line = LineSeries::new(points.iter().copied(), colour(index).stroke_width(2));
            let marks = points.iter().map(|&point| Circle::new(point, 4, colour(index).filled()));
            chart.draw_series(line).map_err(refused)?;
            chart.draw_series(marks).map_err(refused)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_names_axes_and_series() -> Result<()> {
        let lines = Lines::new("Look-ups", Axis::log("sessions"), Axis::linear("ns"))
            .series("hit", [(1e3, 40.0), (1e6, 90.0)])
            .series("miss", [(1e3, 30.0), (1e6, 60.0)]);
        let svg = lines.svg()?;
        for text in ["Look-ups", "sessions", "ns", "hit", "miss", "1k", "1M"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text} is missing in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 4);
        Ok(())
    }

    #[test]
    fn zero_has_no_place_on_a_logarithmic_axis() {
        let lines = |x, y| Lines::new("", x, y).series("", [(0.0, 1.0), (1.0, 2.0)]).svg();
        assert!(lines(Axis::log("x"), Axis::linear("y")).is_err());
        assert!(lines(Axis::linear("x"), Axis::log("y")).is_ok());
        assert!(
            Lines::new("", Axis::linear("x"), Axis::linear("y")).svg().is_err(),
            "nothing to draw"
        );
    }
}
