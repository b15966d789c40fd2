//! What bar and line charts share: size, colours, fonts, title and legend.

use anyhow::{Result, anyhow};
use plotters::{
    backend::SVGBackend,
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _},
    element::Rectangle,
    style::{BLACK, Color as _, IntoFont as _, RGBColor, TextStyle, WHITE},
};

/// Width and height of every plot, pixels.
const SIZE: (u32, u32) = (960, 480);
/// Height of the title, and of a row of the legend, pixels.
const TITLE: u32 = 44;
const ROW: u32 = 24;
/// Pixels of a letter of the legend, on the average.
const LETTER: i32 = 7;

/// Colours that also the colour-blind tell apart: Okabe and Ito, "Color Universal Design", 2008,
/// with grey for their black, and brown.
const COLOURS: [RGBColor; 9] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x55, 0x55, 0x55),
    RGBColor(0x8c, 0x51, 0x0a),
    RGBColor(0xf0, 0xe4, 0x42),
];

/// A part of a plot that is drawn on.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The colour of a series; they come round.
pub(super) fn colour(series: usize) -> RGBColor {
    COLOURS[series % COLOURS.len()]
}

/// Text of so many pixels.
pub(super) fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK)
}

/// Draws title and legend on white, and below them what `draw` draws; returns the SVG.
pub(super) fn plot<'s>(
    title: &str,
    series: impl Iterator<Item = &'s str>,
    draw: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(refused)?;
    let names: Vec<_> = series.collect();
    let places = legend(&names);
    let rows = places.last().map_or(1, |(_, row)| row + 1);
    let (head, body) = root.split_vertically(TITLE + rows * ROW);
    head.draw_text(title, &text(22), (16, 12)).map_err(refused)?;
    for (index, (name, (left, row))) in names.iter().zip(places).enumerate() {
        let top = (TITLE + row * ROW).cast_signed();
        let mark = Rectangle::new([(left, top + 6), (left + 12, top + 18)], colour(index).filled());
        head.draw(&mark).map_err(refused)?;
        head.draw_text(name, &text(14), (left + 18, top + 5)).map_err(refused)?;
    }
    draw(&body)?;
    root.present().map_err(refused)?;
    drop((head, body, root));
    Ok(svg)
}

/// Where the name of each series begins, and in which row.
fn legend(names: &[&str]) -> Vec<(i32, u32)> {
    const LEFT: i32 = 18;
    let (mut left, mut row) = (LEFT, 0);
    let place = |name: &&str| {
        let width = 44 + LETTER * name.chars().count() as i32;
        if left > LEFT && left + width > SIZE.0.cast_signed() {
            (left, row) = (LEFT, row + 1);
        }
        left += width;
        (left - width, row)
    };
    names.iter().map(place).collect()
}

/// What the drawing library complains of, as ours.
pub(super) fn refused<E: std::error::Error + Send + Sync>(
    error: DrawingAreaErrorKind<E>,
) -> anyhow::Error {
    anyhow!("draw: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_legend_goes_on_in_the_next_row() {
        let names = ["steer TC, re-homed, with a long name"; 5];
        let rows: Vec<_> = legend(&names).iter().map(|(_, row)| *row).collect();
        assert_eq!(rows, [0, 0, 0, 1, 1]);
    }
}
