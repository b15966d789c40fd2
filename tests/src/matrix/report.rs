//! All that the matrix prints on stdout: a table per mode, or one JSON object per cell.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use super::{
    Options,
    cell::{Cell, Column, Mode},
    program,
};

/// Prints the tables.
pub(super) fn print(cells: &[Cell], options: &Options, stacks: &[(String, &str)]) {
    println!("{}", versions(stacks));
    let (not_run, run): (Vec<_>, Vec<_>) = cells.iter().partition(|cell| cell.not_run);
    for &mode in &options.modes {
        let rows: Vec<_> = run.iter().copied().filter(|cell| cell.mode == mode).collect();
        println!("\n{}", table(mode, options.columns(), &rows));
    }
    let not_run: BTreeSet<_> = not_run.iter().filter_map(|cell| cell.reason.as_deref()).collect();
    not_run.iter().for_each(|reason| println!("{reason}"));
    let servable = run.iter().filter(|cell| cell.reason.is_none()).count();
    let failed = run.iter().filter(|cell| !cell.holds()).count();
    println!("{servable} of {} cells can be served; steer falls short in {failed}", run.len());
}

/// Prints one object per cell and line.
pub(super) fn print_json(cells: &[Cell]) {
    cells.iter().for_each(|cell| println!("{}", cell.object()));
}

fn table(mode: Mode, columns: &[Column], cells: &[&Cell]) -> String {
    let mut text = format!("{mode}: sessions resumed\n{:<10}{:<12}", "client", "server");
    for column in columns {
        write!(text, "{column:>14}").unwrap_or_default();
    }
    for cell in cells {
        write!(text, "\n{:<10}{:<12}{}", cell.client, cell.server, row(columns, cell))
            .unwrap_or_default();
    }
    text
}

fn row(columns: &[Column], cell: &Cell) -> String {
    if let Some(reason) = &cell.reason {
        return format!("  not served: {reason}");
    }
    let mut text: String =
        columns.iter().map(|column| format!("{:>14}", share(cell, *column))).collect();
    for (column, tally) in &cell.tallies {
        if let Some(sample) = &tally.sample {
            write!(text, "\n    {column}: {} errors, the first: {sample}", tally.errors)
                .unwrap_or_default();
        }
    }
    text
}

fn share(cell: &Cell, column: Column) -> String {
    cell.tallies
        .get(&column)
        .map_or("-".to_owned(), |tally| format!("{} of {}", tally.resumed, tally.offered))
}

/// The versions of kernel, gateways and stacks, each in its own words.
fn versions(stacks: &[(String, &str)]) -> String {
    const ASKED: [(&str, &[&str]); 2] = [("uname", &["-sr"]), ("haproxy", &["-v"])];
    let ask =
        |(program, words): &(&str, &[&str])| program::first_line(Path::new(program), words).ok();
    let stacks = stacks.iter().map(|(stack, version)| format!("{stack}: {version}"));
    ASKED.iter().filter_map(ask).chain(stacks).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{
        cell::{ClientStack, Tally},
        stack::STACKS,
    };

    #[test]
    fn a_row_shows_each_way_and_what_failed() {
        let mut cell = Cell::new(ClientStack::Java, STACKS[0], Mode::Ticket13);
        let tally = |resumed| Tally { offered: 12, resumed, ..Tally::default() };
        cell.take(Column::Direct, tally(12));
        cell.take(Column::L4, tally(4));
        cell.take(Column::Steer, Tally::failed(12, "the agent ended".to_owned()));
        let text = table(Mode::Ticket13, &Column::WAYS, &[&cell]);
        let line =
            "java      nginx             12 of 12       4 of 12             -       0 of 12\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("steer: 1 errors, the first: the agent ended"), "{text}");
    }

    #[test]
    fn a_cell_that_cannot_be_served_says_why() {
        let mut cell = Cell::new(ClientStack::Go, STACKS[0], Mode::Id12);
        cell.take(Column::Direct, Tally::default());
        assert!(
            table(Mode::Id12, &Column::WAYS, &[&cell])
                .contains("not served: the client gets no session to offer")
        );
    }
}
