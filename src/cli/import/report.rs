//! What an import did, and what it could not carry over and why.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use serde::Serialize;

/// A row that could not be carried over as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Complaint {
    /// The table it stands in.
    pub table: &'static str,
    /// Its id there.
    pub id: String,
    /// A stable code.
    pub code: &'static str,
    /// What it means, in words.
    pub why: String,
}

/// How many rows of a kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counts {
    /// Read there.
    pub found: usize,
    /// Written here (or, in a dry run, that would be).
    pub carried: usize,
    /// Here already, and left as they are.
    pub already_here: usize,
}

/// The report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Whether nothing was written.
    pub dry_run: bool,
    /// By kind of row.
    pub counts: BTreeMap<&'static str, Counts>,
    /// Rows that were left out.
    pub left_out: Vec<Complaint>,
    /// Rows that were carried over with a reservation.
    pub doubtful: Vec<Complaint>,
    /// Rows of the legacy table, of which nothing is carried over.
    pub legacy_sources: Option<u64>,
}

impl Report {
    /// The counts of one kind.
    pub(super) fn of(&mut self, kind: &'static str) -> &mut Counts {
        self.counts.entry(kind).or_default()
    }

    /// Notes a row that is left out.
    pub(super) fn leave_out(&mut self, table: &'static str, id: &str, code: &'static str, why: impl Into<String>) {
        self.left_out.push(Complaint { table, id: id.to_owned(), code, why: why.into() });
    }

    /// What was left out after all was not carried over with a reservation.
    pub(super) fn settle(&mut self) {
        let left_out: HashSet<_> = self.left_out.iter().map(|left| (left.table, left.id.as_str())).collect();
        self.doubtful.retain(|doubt| !left_out.contains(&(doubt.table, doubt.id.as_str())));
    }

    /// Notes a row that is carried over all the same.
    pub(super) fn doubt(&mut self, table: &'static str, id: &str, code: &'static str, why: impl Into<String>) {
        self.doubtful.push(Complaint { table, id: id.to_owned(), code, why: why.into() });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dry_run {
            writeln!(f, "dry run: nothing was written")?;
        }
        for (kind, counts) in &self.counts {
            let Counts { found, carried, already_here } = counts;
            writeln!(f, "{kind}: {found} found, {carried} carried over, {already_here} here already")?;
        }
        if let Some(rows) = self.legacy_sources {
            writeln!(f, "lightfast_user_sources: {rows} rows of the legacy table, none carried over")?;
        }
        for (title, complaints) in [("left out", &self.left_out), ("carried over, but look at them", &self.doubtful)] {
            if !complaints.is_empty() {
                writeln!(f, "\n{title}:")?;
            }
            for Complaint { table, id, code, why } in complaints {
                writeln!(f, "  {table} {id}: {why} ({code})")?;
            }
        }
        Ok(())
    }
}
