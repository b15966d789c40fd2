//! The frame on a screen of 80 columns and 24 lines, or more.

use ratatui::{
    Frame as Screen,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table, Widget as _},
};

use super::frame::{BackendRow, Frame, Order};
use crate::report::{BackendState, HealthState};

/// How wide a frame is at least that is printed.
const COLUMNS: usize = 80;
/// What the columns of backends beside their two addresses take.
const NUMBERS: usize = 46;
/// Lines of the boxes below the backends; they get more where there are few backends.
const BOXES: u16 = 9;
/// Lines above the backends.
const HEAD: u16 = 4;

/// What the person at the screen chose.
#[derive(Clone, Default, Debug)]
pub(super) struct View {
    pub(super) order: Order,
    pub(super) paused: bool,
    /// The first backend that is shown.
    pub(super) first: usize,
    /// Why there are no newer numbers.
    pub(super) trouble: Option<String>,
}

/// A frame as text, with every backend and verdict.
pub fn text(frame: &Frame) -> String {
    let backends = u16::try_from(frame.backends.len() + 3).unwrap_or(u16::MAX / 2);
    let boxes = frame.verdicts.len().max(frame.tables.len());
    let boxes = u16::try_from(boxes + 2).unwrap_or(u16::MAX / 4);
    let area = Rect::new(0, 0, columns(frame), HEAD + backends + boxes);
    let mut buffer = Buffer::empty(area);
    let [head, list, below] = Layout::vertical([
        Constraint::Length(HEAD),
        Constraint::Length(backends),
        Constraint::Length(boxes),
    ])
    .areas(area);
    head_lines(frame, &View::default()).render(head, &mut buffer);
    body(frame, &View::default(), list, below, &mut buffer);
    lines(&buffer).join("\n")
}

/// So many that every address has its place.
fn columns(frame: &Frame) -> u16 {
    let longest = frame.backends.iter().map(|row| row.address.len().max(row.vip.len())).max();
    let columns = COLUMNS.max(NUMBERS + 2 * longest.unwrap_or(0));
    u16::try_from(columns).unwrap_or(u16::MAX / 4)
}

/// The lines of a screen, without what is empty at their ends.
pub(super) fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width).max(1);
    let line = |cells: &[ratatui::buffer::Cell]| {
        let line = cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
        line.trim_end().to_owned()
    };
    buffer.content.chunks(width).map(line).collect()
}

/// Draws the whole screen.
pub(super) fn draw(screen: &mut Screen<'_>, frame: &Frame, view: &View) {
    let [head, list, below, keys] = Layout::vertical([
        Constraint::Length(HEAD),
        Constraint::Min(4),
        Constraint::Length(BOXES),
        Constraint::Length(1),
    ])
    .areas(screen.area());
    screen.render_widget(head_lines(frame, view), head);
    body(frame, view, list, below, screen.buffer_mut());
    let keys_line = format!(
        "q quit  s sort ({})  p {}  up/down scroll",
        view.order.word(),
        if view.paused { "go on" } else { "pause" }
    );
    screen.render_widget(Line::from(keys_line).style(dim()), keys);
}

fn body(frame: &Frame, view: &View, list: Rect, below: Rect, buffer: &mut Buffer) {
    let halves = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(2);
    let [verdicts, tables] = halves.areas(below);
    backends(frame, view).render(list, buffer);
    verdict_table(frame).render(verdicts, buffer);
    table_table(frame).render(tables, buffer);
}

fn head_lines(frame: &Frame, view: &View) -> Paragraph<'static> {
    let rates = &frame.rates;
    let version = frame.version.as_deref().unwrap_or("agent does not answer");
    let color = match frame.health {
        HealthState::Healthy => Color::Green,
        HealthState::Degraded => Color::Yellow,
        HealthState::Down => Color::Red,
    };
    let mut first = vec![
        Span::styled("steer ", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!("{version}  ")),
        Span::styled(frame.health.word(), Style::new().fg(color)),
    ];
    for (is_on, word) in
        [(frame.bypass, "BYPASS"), (frame.leave, "LEAVING"), (view.paused, "PAUSED")]
    {
        if is_on {
            first.push(Span::styled(format!("  {word}"), Style::new().fg(Color::Yellow)));
        }
    }
    let why = view.trouble.as_ref().or(frame.because.first()).cloned().unwrap_or_default();
    let more = frame.because.len().saturating_sub(1);
    let more = if more > 0 { format!("  (+{more}: steer status)") } else { String::new() };
    Paragraph::new(vec![
        Line::from(first),
        Line::from(why + &more).style(Style::new().fg(Color::Yellow)),
        Line::from(format!(
            "packets/s {} in, {} out   bytes/s {}   flows/s {}   re-homed/s {}",
            short(rates.packets_from_clients),
            short(rates.packets_from_backends),
            short(rates.bytes),
            short(rates.flows),
            short(rates.rehomes)
        )),
        Line::from(format!(
            "resumed of the sessions offered: {} now, {} since the counters began",
            percent(rates.resumed_percent),
            percent(rates.resumed_percent_ever)
        )),
    ])
}

fn backends(frame: &Frame, view: &View) -> Table<'static> {
    let header = ["BACKEND", "VIP", "STATE", "FLOWS/S", "RE-HOMED/S", "RESUMED", "BYTES/S"];
    let rows = frame.backends.iter().skip(view.first).map(backend);
    let title = match view.first {
        0 => format!("backends: {}", frame.backends.len()),
        first => format!("backends: {} from the {}. on", frame.backends.len(), first + 1),
    };
    let widths = [
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(10),
        Constraint::Length(7),
        Constraint::Length(7),
    ];
    let block = Block::new().borders(Borders::TOP).title(title);
    Table::new(rows, widths).header(head_row(header, 3)).block(block)
}

fn backend(row: &BackendRow) -> Row<'static> {
    let color = match row.state {
        BackendState::Up => Color::Green,
        BackendState::Down => Color::Red,
        _ => Color::Yellow,
    };
    Row::new([
        Cell::from(row.address.clone()),
        Cell::from(row.vip.clone()),
        Cell::from(row.state.word()).style(Style::new().fg(color)),
        number(short(row.flows)),
        number(short(row.rehomes)),
        number(percent(row.resumed_percent)),
        number(short(row.bytes)),
    ])
}

fn verdict_table(frame: &Frame) -> Table<'static> {
    let rows = frame.verdicts.iter().map(|row| {
        Row::new([
            Cell::from(row.event.clone()),
            number(short(row.rate)),
            number(short(row.total as f64)),
        ])
    });
    let widths = [Constraint::Fill(1), Constraint::Length(8), Constraint::Length(8)];
    let block = Block::new().borders(Borders::TOP).title("verdicts");
    Table::new(rows, widths).header(head_row(["EVENT", "A SECOND", "ALL"], 1)).block(block)
}

fn table_table(frame: &Frame) -> Table<'static> {
    let rows = frame.tables.iter().map(|table| {
        let part = table.entries as f64 * 100.0 / f64::from(table.max_entries.max(1));
        Row::new([
            Cell::from(table.name.clone()),
            number(short(table.entries as f64)),
            number(short(table.max_entries.into())),
            number(format!("{part:.0} %")),
        ])
    });
    let widths =
        [Constraint::Fill(1), Constraint::Length(7), Constraint::Length(8), Constraint::Length(6)];
    let block = Block::new().borders(Borders::TOP).title("tables");
    Table::new(rows, widths)
        .header(head_row(["TABLE", "ENTRIES", "ROOM FOR", "FULL"], 1))
        .block(block)
}

/// Names of columns; those from `numbers` on stand at the right, as their numbers do.
fn head_row<const N: usize>(names: [&'static str; N], numbers: usize) -> Row<'static> {
    let cell = |(i, name)| if i < numbers { Cell::from(name) } else { number(name) };
    Row::new(names.into_iter().enumerate().map(cell)).style(dim())
}

fn number(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Line::from(text.into()).right_aligned())
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.0} %"))
}

/// At most four digits and a letter.
fn short(value: f64) -> String {
    let letters = ["", "k", "M", "G", "T"];
    let (mut value, mut n) = (value, 0);
    while value >= 9999.5 && n + 1 < letters.len() {
        (value, n) = (value / 1000.0, n + 1);
    }
    let digits = usize::from(value > 0.0 && value < 9.95 && value.fract() > 0.05);
    format!("{value:.digits$}{}", letters[n])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_five_characters_at_most() {
        let said = [0.0, 0.4, 9.94, 9.96, 1234.0, 9999.0, 9999.9, 12_345.0, 4.2e9, 1e15].map(short);
        assert_eq!(said, ["0", "0.4", "9.9", "10", "1234", "9999", "10k", "12k", "4200M", "1000T"]);
    }
}
