//! What an import did: counts by table, and each row that could not be carried over.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

/// Of one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Rows there are.
    pub(super) read: u64,
    /// Rows that were written (in a dry run: would be).
    pub(super) imported: u64,
    /// Rows that were here already.
    pub(super) already_here: u64,
}

/// A row that could not be carried over, or not as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    /// Its table.
    pub(super) table: &'static str,
    /// Its id there.
    pub(super) id: String,
    /// Why.
    pub(super) reason: String,
}

/// The whole of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// By table.
    pub(super) tables: BTreeMap<&'static str, Counts>,
    /// Rows that were not carried over.
    pub(super) not_carried_over: Vec<Problem>,
    /// Rows that were, of which something is worth knowing.
    pub(super) remarks: Vec<Problem>,
    /// Tables the database has not.
    pub(super) missing: Vec<&'static str>,
}

impl Report {
    pub(super) fn refuse(&mut self, table: &'static str, id: &str, reason: impl Into<String>) {
        self.not_carried_over.push(Problem { table, id: id.to_owned(), reason: reason.into() });
    }

    pub(super) fn remark(&mut self, table: &'static str, id: &str, reason: impl Into<String>) {
        self.remarks.push(Problem { table, id: id.to_owned(), reason: reason.into() });
    }

    pub(super) fn table(&mut self, table: &'static str) -> &mut Counts {
        self.tables.entry(table).or_default()
    }

    fn refused(&self, table: &str) -> usize {
        self.not_carried_over.iter().filter(|problem| problem.table == table).count()
    }

    pub(super) fn to_json(&self, dry_run: bool) -> Value {
        let tables: serde_json::Map<String, Value> = self
            .tables
            .iter()
            .map(|(table, counts)| {
                let counts = json!({
                    "read": counts.read,
                    "imported": counts.imported,
                    "alreadyHere": counts.already_here,
                    "notCarriedOver": self.refused(table),
                });
                ((*table).to_owned(), counts)
            })
            .collect();
        let problems = |problems: &[Problem]| -> Value {
            problems.iter().map(|found| json!({"table": found.table, "id": found.id, "reason": found.reason})).collect()
        };
        json!({
            "dryRun": dry_run,
            "tables": tables,
            "notCarriedOver": problems(&self.not_carried_over),
            "remarks": problems(&self.remarks),
            "missingTables": self.missing,
        })
    }

    pub(super) fn to_text(&self, dry_run: bool) -> String {
        let mut text = String::new();
        let verb = if dry_run { "would be imported" } else { "imported" };
        // Writing to a text never fails.
        let mut line =
            |line: std::fmt::Arguments<'_>| text.write_fmt(line).and_then(|()| text.write_char('\n')).is_ok();
        for (table, counts) in &self.tables {
            let Counts { read, imported, already_here } = counts;
            let refused = self.refused(table);
            line(format_args!(
                "{table}: {read} read, {imported} {verb}, {already_here} here already, {refused} not carried over"
            ));
        }
        for table in &self.missing {
            line(format_args!("{table}: there is no such table"));
        }
        for (kind, problems) in [("not carried over", &self.not_carried_over), ("to know", &self.remarks)] {
            for Problem { table, id, reason } in problems {
                line(format_args!("{kind}: {table} {id}: {reason}"));
            }
        }
        if dry_run {
            line(format_args!("dry run: nothing was written"));
        }
        text
    }
}
