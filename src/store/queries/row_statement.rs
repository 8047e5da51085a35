//! Statements over many rows, and their arguments.
//!
//! **Owns** the texts of multi-row statements: each is written once for each of a few sizes, because a batch runs the same
//! few again and again; what the rows do not fill is NULL, because one statement more costs more than the rows it writes.
//! **Must not know** tables.

use std::sync::OnceLock;

use sqlx::{Arguments as _, Encode, Type, query::Query};

use super::{Arguments, Conn, Db};

/// How many rows a statement has room for. Small enough for SQLite's 32,766 variables with a few dozen columns.
const SIZES: [usize; 6] = [1, 4, 8, 16, 32, 64];
const LARGEST: usize = SIZES[SIZES.len() - 1];

/// A statement with a list of rows in it: `head (VALUES (…), (…)) AS v WHERE v.column1 IS NOT NULL tail`. The first column
/// of a row is never NULL, and the head ends with `FROM`.
pub(super) struct RowStatement {
    head: &'static str,
    columns: usize,
    tail: &'static str,
    texts: [OnceLock<String>; SIZES.len()],
}

impl RowStatement {
    pub(super) const fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Self { head, columns, tail, texts: [const { OnceLock::new() }; SIZES.len()] }
    }

    /// The statements for all these rows, whose values `add` binds row by row.
    pub(super) fn queries<'r, T>(
        &'static self,
        rows: &'r [T],
        mut add: impl FnMut(&mut RowArguments, &T) + 'r,
    ) -> impl Iterator<Item = Result<Query<'static, Db, Arguments>, sqlx::Error>> + 'r {
        rows.chunks(LARGEST).map(move |rows| {
            let (size, text) = self.text_for(rows.len());
            let mut arguments = RowArguments { arguments: Arguments::default(), padding: false, failed: None };
            arguments.arguments.reserve(size * self.columns, 0);
            for row in rows {
                add(&mut arguments, row);
            }
            // Only for the types of its values.
            arguments.padding = true;
            for _ in rows.len()..size {
                add(&mut arguments, &rows[0]);
            }
            match arguments.failed {
                Some(error) => Err(sqlx::Error::Encode(error)),
                None => Ok(sqlx::query_with(text, arguments.arguments)),
            }
        })
    }

    /// Executes the statements for all these rows; how many rows of the table they affected.
    pub(super) async fn execute<T>(
        &'static self,
        conn: &mut Conn,
        rows: &[T],
        add: impl FnMut(&mut RowArguments, &T),
    ) -> Result<u64, sqlx::Error> {
        let mut affected = 0;
        for query in self.queries(rows, add) {
            affected += query?.execute(&mut *conn).await?.rows_affected();
        }
        Ok(affected)
    }

    fn text_for(&'static self, rows: usize) -> (usize, &'static str) {
        let index = SIZES.iter().position(|size| rows <= *size).unwrap_or(SIZES.len() - 1);
        (SIZES[index], self.texts[index].get_or_init(|| self.write(SIZES[index])))
    }

    fn write(&self, rows: usize) -> String {
        let mut text = format!("{} (VALUES ", self.head);
        // The driver knows how it writes a placeholder: by how many arguments there are.
        let mut counted = Arguments::default();
        for row in 0..rows {
            text.push_str(if row == 0 { "(" } else { ", (" });
            for column in 0..self.columns {
                if column > 0 {
                    text.push_str(", ");
                }
                let written = counted.add(0_i64).is_ok() && counted.format_placeholder(&mut text).is_ok();
                debug_assert!(written, "a number can be an argument, and text be written");
            }
            text.push(')');
        }
        text.push_str(") AS v WHERE v.column1 IS NOT NULL ");
        text.push_str(self.tail);
        text
    }
}

/// The values of a statement's rows, bound one after the other.
pub(super) struct RowArguments {
    arguments: Arguments,
    /// Whether NULLs of the values' types are bound instead.
    padding: bool,
    failed: Option<sqlx::error::BoxDynError>,
}

impl RowArguments {
    pub(super) fn bind<'v>(&mut self, value: impl Encode<'v, Db> + Type<Db> + 'v) -> &mut Self {
        let value = (!self.padding).then_some(value);
        if let Err(error) = self.arguments.add(value) {
            self.failed.get_or_insert(error);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static STATEMENT: RowStatement = RowStatement::new("SELECT * FROM", 2, "");

    #[test]
    fn no_row_is_lost_and_the_last_statement_is_filled_up() {
        for (rows, sizes) in [(1, vec![1]), (2, vec![4]), (5, vec![8]), (64, vec![64]), (150, vec![64, 64, 32])] {
            let rows: Vec<usize> = (0..rows).collect();
            let mut bound = Vec::new();
            let statements: Vec<usize> = STATEMENT
                .queries(&rows, |arguments, row| {
                    if !arguments.padding {
                        bound.push(*row);
                    }
                    arguments.bind(1_i64).bind("text");
                })
                .map(|query| {
                    let mut query = query.expect("bound");
                    let arguments = sqlx::Execute::take_arguments(&mut query).expect("encoded").expect("some");
                    arguments.len() / 2
                })
                .collect();
            assert_eq!(statements, sizes);
            assert_eq!(bound, rows);
        }
    }
}
