//! The table.

use std::collections::BTreeMap;
use std::fmt;

/// One line of the table: what was measured, of whom.
#[derive(Debug, Clone)]
pub struct Case {
    title: String,
    unit: &'static str,
    /// The figures of each round.
    figures: BTreeMap<&'static str, Vec<f64>>,
}

impl Case {
    pub fn new(title: String, unit: &'static str) -> Self {
        Self {
            title,
            unit,
            figures: BTreeMap::new(),
        }
    }

    pub fn note(&mut self, whose: &'static str, figure: f64) {
        self.figures.entry(whose).or_default().push(figure);
    }

    /// The middle one, the least and the most.
    fn of(&self, whose: &str) -> Option<[f64; 3]> {
        let mut figures = self.figures.get(whose)?.clone();
        figures.sort_by(f64::total_cmp);
        Some([figures[figures.len() / 2], figures[0], *figures.last()?])
    }

    fn cell(&self, whose: &str) -> String {
        let Some([median, least, most]) = self.of(whose) else {
            return String::new();
        };
        if self.figures[whose].len() == 1 {
            return round(median);
        }
        format!("{} ({} to {})", round(median), round(least), round(most))
    }

    /// edgehold against nginx.
    fn ratio(&self) -> String {
        match (
            self.of("edgehold"),
            self.of("nginx").or_else(|| self.of("nginx, a file")),
        ) {
            (Some([ours, ..]), Some([theirs, ..])) if theirs > 0.0 => format!("{:.2}", ours / theirs),
            _ => String::new(),
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Report {
    cases: Vec<Case>,
}

impl Report {
    pub fn add(&mut self, case: Case) {
        self.cases.push(case);
    }

    pub fn extend(&mut self, cases: Vec<Case>) {
        self.cases.extend(cases);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns: Vec<&str> = self
            .cases
            .iter()
            .flat_map(|case| case.figures.keys().copied())
            .collect();
        columns.sort_unstable();
        columns.dedup();
        writeln!(f, "| | {} | edgehold / nginx |", columns.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(columns.len() + 1))?;
        for case in &self.cases {
            let cells: Vec<String> = columns.iter().map(|column| case.cell(column)).collect();
            let unit = if case.unit.is_empty() {
                String::new()
            } else {
                format!(", {}", case.unit)
            };
            writeln!(
                f,
                "| {}{unit} | {} | {} |",
                case.title,
                cells.join(" | "),
                case.ratio()
            )?;
        }
        Ok(())
    }
}

/// Three digits are what such figures are worth.
fn round(figure: f64) -> String {
    match figure.abs() {
        large if large >= 100.0 => format!("{figure:.0}"),
        middle if middle >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}
