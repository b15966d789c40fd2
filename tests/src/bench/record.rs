//! A benchmark's page in docs/bench: what was measured, why and how, on which machine, by which
//! command, and what came out.
//!
//! A benchmark makes a [`Report`] before it measures, adds tables, goals and plots as it goes,
//! prints it, and writes it where it was told to. Nothing is on a page but what that run measured
//! or read from the system.
//!
//! ```no_run
//! # use std::path::Path;
//! # use steer_tests::bench::record::{Bars, Goal, Peer, Report, Table};
//! # fn main() -> anyhow::Result<()> {
//! let mut report = Report::new("e2e", "End to end", "cargo xtask bench e2e --record docs/bench", &[Peer::Nginx])?;
//! report.method("What a client sees through each way. Medians of 5 interleaved rounds.");
//! report.section("Handshakes");
//! report.table(Table::new(&["way", "resumed/s"]).row(["direct", "2100"]).row(["steer", "2050"]));
//! report.goal(Goal::at_least("resumed/s of steer by direct", 2050.0 / 2100.0, 0.9));
//! report.bars("rate", &Bars::new("Resumed", "handshakes/s", &["direct", "steer"]).series("TLS 1.2", [2100.0, 2050.0]));
//! report.print();
//! report.write(Path::new("docs/bench"))
//! # }
//! ```

mod bars;
mod figure;
mod goal;
mod lines;
mod machine;
mod paint;
mod table;

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use self::machine::Machine;
pub use self::{
    bars::Bars,
    figure::{figure, median, percentile, short},
    goal::Goal,
    lines::{Axis, Lines},
    machine::Peer,
    table::Table,
};

/// A page in the making.
pub struct Report {
    name: &'static str,
    title: &'static str,
    command: String,
    machine: Machine,
    method: Vec<String>,
    results: Vec<Part>,
}

/// What results are made of, in the order they were added.
enum Part {
    Section(String),
    Text(String),
    Table(Table),
    Goal(Goal),
    Plot { name: String, title: String, svg: String },
}

impl Report {
    /// A page without results. Made before anything is measured, for it notes the machine's load.
    ///
    /// `name` is the page's file name without `.md`, without hyphens; `command` repeats the run.
    ///
    /// # Errors
    /// When /proc cannot be read or a peer is not installed.
    pub fn new(
        name: &'static str,
        title: &'static str,
        command: &str,
        peers: &[Peer],
    ) -> Result<Self> {
        let machine = Machine::look(peers)?;
        Ok(Self {
            name,
            title,
            command: command.to_owned(),
            machine,
            method: Vec::new(),
            results: Vec::new(),
        })
    }

    /// Adds a paragraph on what is measured, why, and how.
    pub fn method(&mut self, paragraph: &str) {
        self.method.push(paragraph.to_owned());
    }

    /// Begins a section of the results.
    pub fn section(&mut self, heading: &str) {
        self.results.push(Part::Section(heading.to_owned()));
    }

    /// Adds a paragraph.
    pub fn text(&mut self, paragraph: &str) {
        self.results.push(Part::Text(paragraph.to_owned()));
    }

    /// Adds a table.
    pub fn table(&mut self, table: Table) {
        self.results.push(Part::Table(table));
    }

    /// Adds a goal and whether it was reached. Goals that follow one another become one table.
    pub fn goal(&mut self, goal: Goal) {
        self.results.push(Part::Goal(goal));
    }

    /// Adds a bar chart: `PAGE-NAME.svg`.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn bars(&mut self, name: &str, bars: &Bars) -> Result<()> {
        let svg = bars.svg().with_context(|| format!("draw {name}"))?;
        self.plot(name, bars.title(), svg);
        Ok(())
    }

    /// Adds a line chart: `PAGE-NAME.svg`.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn lines(&mut self, name: &str, lines: &Lines) -> Result<()> {
        let svg = lines.svg().with_context(|| format!("draw {name}"))?;
        self.plot(name, lines.title(), svg);
        Ok(())
    }

    fn plot(&mut self, name: &str, title: &str, svg: String) {
        self.results.push(Part::Plot { name: name.to_owned(), title: title.to_owned(), svg });
    }

    /// The goals that were missed.
    pub fn missed(&self) -> Vec<&Goal> {
        let goals = self.results.iter().filter_map(|part| match part {
            Part::Goal(goal) => Some(goal),
            Part::Section(_) | Part::Text(_) | Part::Table(_) | Part::Plot { .. } => None,
        });
        goals.filter(|goal| !goal.is_reached()).collect()
    }

    /// Prints the results on stdout, without plots.
    #[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
    pub fn print(&self) {
        println!("# {}\n\n{}", self.title, self.results(false));
    }

    /// Writes the page and its plots, and removes plots of an older run.
    ///
    /// # Errors
    /// When a file cannot be written, or the page's name has a hyphen: it divides page from plot.
    pub fn write(&self, directory: &Path) -> Result<()> {
        ensure!(!self.name.contains('-'), "the page's name {} has a hyphen", self.name);
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        self.remove_plots(directory)?;
        for part in &self.results {
            if let Part::Plot { name, svg, .. } = part {
                write(&directory.join(self.plot_file(name)), svg)?;
            }
        }
        write(&directory.join(format!("{}.md", self.name)), &self.page()?)
    }

    fn remove_plots(&self, directory: &Path) -> Result<()> {
        let own = format!("{}-", self.name);
        for entry in
            fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?
        {
            let path = entry?.path();
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            if name.starts_with(&own) && name.ends_with(".svg") {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn page(&self) -> Result<String> {
        let method: Vec<_> = self.method.iter().map(|paragraph| wrapped(paragraph)).collect();
        let method = method.join("\n\n");
        Ok(format!(
            "# {}\n\n{method}\n\nRepeat it, as root:\n\n```\n{}\n```\n\n## Machine\n\n{}\n{}\n",
            self.title,
            self.command,
            self.machine.table()?,
            self.results(true).trim_end()
        ))
    }

    fn results(&self, with_plots: bool) -> String {
        let mut text = String::new();
        let mut parts = self.results.iter().peekable();
        while let Some(part) = parts.next() {
            text += &match part {
                Part::Section(heading) => format!("## {heading}\n"),
                Part::Text(paragraph) => format!("{}\n", wrapped(paragraph)),
                Part::Table(table) => table.to_string(),
                Part::Goal(goal) => {
                    let mut goals = Goal::heading().row(goal.cells());
                    while let Some(Part::Goal(next)) = parts.peek() {
                        goals = goals.row(next.cells());
                        parts.next();
                    }
                    goals.to_string()
                }
                Part::Plot { name, title, .. } if with_plots => {
                    format!("![{title}]({})\n", self.plot_file(name))
                }
                Part::Plot { .. } => continue,
            };
            text.push('\n');
        }
        text
    }

    fn plot_file(&self, plot: &str) -> String {
        format!("{}-{plot}.svg", self.name)
    }
}

/// A paragraph in lines of at most 120 characters, where its words allow.
fn wrapped(paragraph: &str) -> String {
    const WIDTH: usize = 120;
    let mut lines = vec![String::new()];
    for word in paragraph.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                *line += &format!(" {word}")
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Result<Report> {
        let mut report = Report::new("page", "A page", "cargo xtask bench page", &[])?;
        report.method("How.");
        report.section("Rates");
        report.table(Table::new(&["way", "a second"]).row(["direct", "12"]));
        report.goal(Goal::at_least("one", 2.0, 1.0));
        report.goal(Goal::at_most("two", 2.0, 1.0));
        report.bars(
            "rates",
            &Bars::new("Rates", "a second", &["direct"]).series("resumed", [12.0]),
        )?;
        Ok(report)
    }

    #[test]
    fn a_page_says_how_where_and_what() -> Result<()> {
        let directory = tempfile::tempdir()?;
        report()?.write(directory.path())?;
        let page = fs::read_to_string(directory.path().join("page.md"))?;
        for text in [
            "# A page\n",
            "How.",
            "cargo xtask bench page",
            "| kernel",
            "## Rates\n",
            "(page-rates.svg)",
        ] {
            assert!(page.contains(text), "{text} is missing in {page}");
        }
        assert_eq!(
            page.matches("| goal").count(),
            1,
            "goals that follow one another are one table: {page}"
        );
        Ok(())
    }

    #[test]
    fn plots_of_an_older_run_go_and_other_pages_stay() -> Result<()> {
        let directory = tempfile::tempdir()?;
        for name in ["page-old.svg", "pages-old.svg", "other.md"] {
            fs::write(directory.path().join(name), "")?;
        }
        report()?.write(directory.path())?;
        let is_there = |name: &str| directory.path().join(name).exists();
        assert!(!is_there("page-old.svg") && is_there("pages-old.svg") && is_there("other.md"));
        assert!(is_there("page-rates.svg"));
        Ok(())
    }

    #[test]
    fn paragraphs_are_wrapped_between_words() {
        let paragraph = ["word"; 30].join(" ");
        let lines: Vec<_> = wrapped(&paragraph).lines().map(str::to_owned).collect();
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [119, 29]);
        assert_eq!(lines.join(" "), paragraph);
    }

    #[test]
    fn missed_goals_are_told() -> Result<()> {
        let report = report()?;
        let missed: Vec<_> = report.missed().iter().map(|goal| goal.what().to_owned()).collect();
        assert_eq!(missed, ["two"]);
        Ok(())
    }
}
