//! Statements over many rows, and their arguments.
//!
//! **Owns** the texts of multi-row statements: each is written once for each bucket size, because a batch runs the same
//! few again and again and writing thousands of placeholders anew costs more than binding them. **Must not know** tables.

use std::sync::OnceLock;

use sqlx::{Arguments as _, Encode, Type, query::Query};

use super::{Arguments, BUCKETS, Db};

/// A statement with a list of rows in it: `head (…), (…) tail`.
pub(super) struct RowStatement {
    head: &'static str,
    columns: usize,
    tail: &'static str,
    texts: [OnceLock<String>; BUCKETS.len()],
}

impl RowStatement {
    pub(super) const fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Self { head, columns, tail, texts: [const { OnceLock::new() }; BUCKETS.len()] }
    }

    /// The statement for a bucket of rows, whose values `add` binds row by row.
    pub(super) fn query<T>(
        &'static self,
        bucket: &[T],
        mut add: impl FnMut(&mut RowArguments, &T),
    ) -> Result<Query<'static, Db, Arguments>, sqlx::Error> {
        let size = BUCKETS.iter().position(|size| *size == bucket.len());
        let text = size
            .and_then(|size| self.texts.get(size))
            .ok_or_else(|| sqlx::Error::InvalidArgument(format!("{} rows are no bucket", bucket.len())))?;
        let text: &'static str = text.get_or_init(|| self.write(bucket.len()));
        let mut arguments = RowArguments { arguments: Arguments::default(), failed: None };
        arguments.arguments.reserve(bucket.len() * self.columns, 0);
        for row in bucket {
            add(&mut arguments, row);
        }
        match arguments.failed {
            Some(error) => Err(sqlx::Error::Encode(error)),
            None => Ok(sqlx::query_with(text, arguments.arguments)),
        }
    }

    fn write(&self, rows: usize) -> String {
        let mut text = self.head.to_owned();
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
        text.push_str(self.tail);
        text
    }
}

/// The values of a statement's rows, bound one after the other.
pub(super) struct RowArguments {
    arguments: Arguments,
    failed: Option<sqlx::error::BoxDynError>,
}

impl RowArguments {
    pub(super) fn bind<'v>(&mut self, value: impl Encode<'v, Db> + Type<Db>) -> &mut Self {
        if let Err(error) = self.arguments.add(value) {
            self.failed.get_or_insert(error);
        }
        self
    }
}
