//! Figures and what they should be.
//!
//! **Invariants.** A goal whose figure was not measured is not met.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde::Deserialize;

/// Figures by name: `phase.figure`, `floor.kind.figure`, `run.figure`.
pub type Figures = BTreeMap<String, f64>;

/// What a figure should be: (`figure` − `minus`) / `over` / `divided_by`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// In words.
    pub says: String,
    /// The row of the project's list of figures it belongs to.
    #[serde(default)]
    pub row: Option<u32>,
    /// The figure's name.
    pub figure: String,
    /// A figure to take off.
    #[serde(default)]
    pub minus: Option<String>,
    /// A figure to divide by.
    #[serde(default)]
    pub over: Option<String>,
    /// A number to divide by.
    #[serde(default)]
    pub divided_by: Option<f64>,
    /// The ceiling.
    #[serde(default)]
    pub at_most: Option<f64>,
    /// The floor.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// Only for this database.
    #[serde(default)]
    pub database: Option<DatabaseKind>,
}

/// A kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseKind {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

impl DatabaseKind {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

impl Goal {
    /// Whether it says what it must.
    pub fn validate(&self, is_known: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        ensure!(self.at_most.is_some() || self.at_least.is_some(), "the goal {:?} has no bound", self.says);
        for figure in [Some(&self.figure), self.minus.as_ref(), self.over.as_ref()].into_iter().flatten() {
            ensure!(is_known(figure), "the goal {:?} is about {figure}, which no phase has", self.says);
        }
        Ok(())
    }

    /// Its value; `None` if it was not measured.
    pub fn value(&self, figures: &Figures) -> Option<f64> {
        let mut value = *figures.get(&self.figure)?;
        if let Some(minus) = &self.minus {
            value -= figures.get(minus)?;
        }
        if let Some(over) = &self.over {
            value /= figures.get(over)?;
        }
        value /= self.divided_by.unwrap_or(1.0);
        value.is_finite().then_some(value)
    }

    /// Whether that value meets it.
    pub fn is_met_by(&self, value: f64) -> bool {
        self.at_most.is_none_or(|most| value <= most) && self.at_least.is_none_or(|least| value >= least)
    }

    /// Its bounds in words.
    pub fn bounds(&self) -> String {
        match (self.at_least, self.at_most) {
            (Some(least), Some(most)) => format!("{} to {}", shown(least), shown(most)),
            (Some(least), None) => format!("≥ {}", shown(least)),
            (None, Some(most)) => format!("≤ {}", shown(most)),
            (None, None) => String::new(),
        }
    }
}

/// A number with as many digits as say something.
pub fn shown(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle and the spread of several runs of one figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

/// Medians and spreads of runs. A figure some run does not have is judged by the runs that do.
pub fn spread_of(runs: &[Figures]) -> BTreeMap<String, Spread> {
    let mut values: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
    for (name, value) in runs.iter().flatten() {
        values.entry(name).or_default().push(*value);
    }
    values
        .into_iter()
        .filter_map(|(name, mut values)| {
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            let upper = *values.get(middle)?;
            let lower = if values.len() % 2 == 0 { *values.get(middle.checked_sub(1)?)? } else { upper };
            let spread = Spread { median: f64::midpoint(lower, upper), least: *values.first()?, most: *values.last()? };
            Some((name.clone(), spread))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(all: &[(&str, f64)]) -> Figures {
        all.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    fn goal(text: &str) -> Goal {
        toml::from_str(text).expect("a goal")
    }

    #[test]
    fn a_goal_takes_off_divides_and_compares() {
        let figures = figures(&[("a.x", 100.0), ("b.x", 20.0), ("c.x", 4.0)]);
        let further = goal("says = 's'\nfigure = 'a.x'\nminus = 'b.x'\nover = 'c.x'\ndivided_by = 10\nat_most = 2");
        assert_eq!(further.value(&figures), Some(2.0));
        assert!(further.is_met_by(2.0) && !further.is_met_by(2.1));
        assert!(!goal("says = 's'\nfigure = 'a.x'\nat_most = 99").is_met_by(100.0));
        assert!(!goal("says = 's'\nfigure = 'a.x'\nat_least = 101").is_met_by(100.0));
    }

    #[test]
    fn what_was_not_measured_has_no_value() {
        let figures = figures(&[("a.x", 1.0), ("zero.x", 0.0)]);
        assert_eq!(goal("says = 's'\nfigure = 'b.x'\nat_most = 1").value(&figures), None);
        assert_eq!(goal("says = 's'\nfigure = 'a.x'\nover = 'zero.x'\nat_least = 1").value(&figures), None);
    }

    #[test]
    fn medians_are_of_the_middle_and_spreads_of_the_ends() {
        let runs = [figures(&[("a", 3.0)]), figures(&[("a", 1.0), ("b", 7.0)]), figures(&[("a", 2.0)])];
        let spread = spread_of(&runs);
        assert_eq!(spread["a"], Spread { median: 2.0, least: 1.0, most: 3.0 });
        assert_eq!(spread["b"], Spread { median: 7.0, least: 7.0, most: 7.0 });
        assert!((spread_of(&runs[..2])["a"].median - 2.0).abs() < f64::EPSILON);
    }
}
