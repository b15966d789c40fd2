//! All that the matrix prints on stdout: a table per mode, or one JSON object per cell.

use std::{fmt::Write as _, process::Command};

use super::cell::{Cell, Column, Mode};

/// Prints the tables.
pub(super) fn print(cells: &[Cell], modes: &[Mode]) {
    println!("{}", versions());
    let (not_run, run): (Vec<_>, Vec<_>) = cells.iter().partition(|cell| cell.is_not_run());
    for &mode in modes {
        let rows: Vec<_> = run.iter().copied().filter(|cell| cell.mode == mode).collect();
        println!("\n{}", table(mode, &rows));
    }
    if let Some(Cell { client, reason: Some(reason), .. }) = not_run.first() {
        println!("{client}: {reason}");
    }
    let servable = run.iter().filter(|cell| cell.reason.is_none()).count();
    let failed = run.iter().filter(|cell| !cell.holds()).count();
    println!("{servable} of {} cells can be served; steer falls short in {failed}", run.len());
}

/// Prints one object per cell and line.
pub(super) fn print_json(cells: &[Cell]) {
    cells.iter().for_each(|cell| println!("{}", cell.object()));
}

fn table(mode: Mode, cells: &[&Cell]) -> String {
    let mut text = format!("{mode}: sessions resumed\n{:<10}{:<10}", "client", "server");
    for column in Column::ALL {
        write!(text, "{column:>14}").unwrap_or_default();
    }
    for cell in cells {
        write!(text, "\n{:<10}{:<10}{}", cell.client, cell.server, row(cell)).unwrap_or_default();
    }
    text
}

fn row(cell: &Cell) -> String {
    if let Some(reason) = &cell.reason {
        return format!("  not served: {reason}");
    }
    let mut text: String = Column::ALL.iter().map(|column| format!("{:>14}", share(cell, *column))).collect();
    for (column, tally) in &cell.tallies {
        if let Some(sample) = &tally.sample {
            write!(text, "\n    {column}: {} errors, the first: {sample}", tally.errors).unwrap_or_default();
        }
    }
    text
}

fn share(cell: &Cell, column: Column) -> String {
    cell.tallies.get(&column).map_or("-".to_owned(), |tally| format!("{} of {}", tally.resumed, tally.offered))
}

/// The stacks' versions, each in its own words.
fn versions() -> String {
    const ASKED: [(&str, &[&str]); 9] = [
        ("uname", &["-sr"]),
        ("openssl", &["version"]),
        ("nginx", &["-v"]),
        ("haproxy", &["-v"]),
        ("gnutls-serv", &["--version"]),
        ("go", &["version"]),
        ("java", &["-version"]),
        ("python3", &["-c", "import platform, ssl; print('Python', platform.python_version(), ssl.OPENSSL_VERSION)"]),
        ("/usr/lib/chromium/chromium", &["--version"]),
    ];
    ASKED.iter().filter_map(|(program, words)| first_line(program, words)).collect::<Vec<_>>().join("\n")
}

/// First line of what a tool prints, on stdout or stderr.
fn first_line(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::cell::{ClientStack, ServerStack, Tally};

    #[test]
    fn a_row_shows_each_way_and_what_failed() {
        let mut cell = Cell::new(ClientStack::Java, ServerStack::Nginx, Mode::Ticket13);
        let tally = |resumed| Tally { offered: 12, resumed, ..Tally::default() };
        cell.take(Column::Direct, tally(12));
        cell.take(Column::L4, tally(4));
        cell.take(Column::Steer, Tally::failed(12, "the agent ended".to_owned()));
        let text = table(Mode::Ticket13, &[&cell]);
        let line = "java      nginx           12 of 12       4 of 12             -       0 of 12\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("steer: 1 errors, the first: the agent ended"), "{text}");
    }

    #[test]
    fn a_cell_that_cannot_be_served_says_why() {
        let mut cell = Cell::new(ClientStack::Go, ServerStack::Nginx, Mode::Id12);
        cell.take(Column::Direct, Tally::default());
        assert!(table(Mode::Id12, &[&cell]).contains("not served: the client gets no session to offer"));
    }
}
