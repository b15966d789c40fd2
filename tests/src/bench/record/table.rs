//! A Markdown table whose columns are aligned, so that it is one for people at a terminal as well.

use std::fmt;

/// Rows below named columns. Columns of figures are aligned to the right.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &[&str]) -> Self {
        Self {
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty.
    #[must_use]
    pub fn row<T: Into<String>>(mut self, cells: impl IntoIterator<Item = T>) -> Self {
        let mut cells: Vec<_> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
        self
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].chars().count());
        cells.chain([self.columns[column].chars().count()]).max().unwrap_or_default()
    }

    fn is_of_figures(&self, column: usize) -> bool {
        let begins =
            |cell: &str| cell.starts_with(|first: char| first.is_ascii_digit() || first == '-');
        let mut cells =
            self.rows.iter().map(|row| &row[column]).filter(|cell| !cell.is_empty()).peekable();
        cells.peek().is_some() && cells.all(|cell| begins(cell))
    }

    fn line(&self, cells: &[String], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (column, cell) in cells.iter().enumerate() {
            let width = self.width(column);
            if self.is_of_figures(column) {
                write!(f, "| {cell:>width$} ")?;
            } else {
                write!(f, "| {cell:<width$} ")?;
            }
        }
        writeln!(f, "|")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line(&self.columns, f)?;
        for column in 0..self.columns.len() {
            let end = if self.is_of_figures(column) { ":" } else { "-" };
            write!(f, "|{}{end}", "-".repeat(self.width(column) + 1))?;
        }
        writeln!(f, "|")?;
        self.rows.iter().try_for_each(|row| self.line(row, f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_at_the_right() {
        let table = Table::new(&["way", "a second", "error"])
            .row(["direct", "12"])
            .row(["steer", "1200", "none"]);
        let expected = "| way    | a second | error |\n|--------|---------:|-------|\n\
                        | direct |       12 |       |\n| steer  |     1200 | none  |\n";
        assert_eq!(table.to_string(), expected);
    }
}
