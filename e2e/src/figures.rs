//! Figures measured in a run: a table for people, `out/<name>.json` for machines.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// What was measured in one run on one machine.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// The machine, in words.
    pub machine: String,
    /// One row a figure.
    pub rows: Vec<Row>,
}

/// One figure.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// How much.
    pub value: f64,
    /// In what.
    pub unit: &'static str,
    /// What it is to be at most, where there is a goal.
    pub goal: Option<f64>,
    /// Whether the goal is met; true where there is none.
    pub ok: bool,
}

impl Figures {
    /// No figures yet, on this machine.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self { machine: format!("{cores} cores, Linux {}", kernel.trim()), rows: Vec::new() }
    }

    /// A figure without a goal.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.rows.push(Row { name: name.into(), value, unit, goal: None, ok: true });
    }

    /// A figure that is to be at most `goal`.
    pub fn add_at_most(&mut self, name: impl Into<String>, value: f64, unit: &'static str, goal: f64) {
        self.rows.push(Row { name: name.into(), value, unit, goal: Some(goal), ok: value <= goal });
    }

    /// Those whose goal is missed.
    pub fn missed(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.ok)
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let mut table = format!("{}\n", self.machine);
        for row in &self.rows {
            let goal = match row.goal {
                Some(goal) => {
                    format!("goal ≤ {} {}: {}", number(goal), row.unit, if row.ok { "met" } else { "MISSED" })
                }
                None => String::new(),
            };
            let value = format!("{} {}", number(row.value), row.unit);
            table.push_str(format!("  {:width$}  {value:>12}  {goal}", row.name).trim_end());
            table.push('\n');
        }
        table
    }

    /// Writes `out/<name>.json` in the current folder.
    pub fn write(&self, name: &str) -> Result<PathBuf> {
        let path = PathBuf::from("out").join(format!("{name}.json"));
        fs::create_dir_all("out")?;
        let json = serde_json::to_string_pretty(self)?;
        fs::write(&path, format!("{json}\n")).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Default for Figures {
    fn default() -> Self {
        Self::new()
    }
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_goal_is_told() {
        let mut figures = Figures::new();
        figures.add("requests", 1200.0, "requests");
        figures.add_at_most("failed for another reason", 1.0, "requests", 0.0);
        assert!(figures.table().contains("goal ≤ 0 requests: MISSED"), "{}", figures.table());
        assert_eq!(figures.missed().count(), 1);
    }
}
