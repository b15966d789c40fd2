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
/// Height of title and legend, pixels.
const HEAD: u32 = 76;
/// Pixels of a letter of the legend, on the average.
const LETTER: i32 = 7;

/// Colours that also the colour-blind tell apart: Okabe and Ito, "Color Universal Design", 2008.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x55, 0x55, 0x55),
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
    let (head, body) = root.split_vertically(HEAD);
    head.draw_text(title, &text(22), (16, 12)).map_err(refused)?;
    let mut left = 18;
    for (index, name) in series.enumerate() {
        head.draw(&Rectangle::new([(left, 50), (left + 12, 62)], colour(index).filled())).map_err(refused)?;
        head.draw_text(name, &text(14), (left + 18, 49)).map_err(refused)?;
        left += 44 + LETTER * i32::try_from(name.chars().count())?;
    }
    draw(&body)?;
    root.present().map_err(refused)?;
    drop((head, body, root));
    Ok(svg)
}

/// What the drawing library complains of, as ours.
pub(super) fn refused<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("draw: {error}")
}
