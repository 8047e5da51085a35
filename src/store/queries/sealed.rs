//! Every sealed value there is, for the vault: listed table by table, and replaced one by one.

use super::{Fields, Row, Session, query, text};
use crate::store::{SealedCursor, SealedValue, StoreError, StoreResult};

/// A table with sealed values: the names they are sealed under, in the order in which `list` reads them after the row's
/// id, and how each is replaced.
struct SealedTable {
    name: &'static str,
    /// `$1` is the id to begin after, `$2` the limit.
    list: &'static str,
    /// `(name, statement)`: `$1` is the row's id, `$2` the value that must still be there, `$3` the new one.
    columns: &'static [(&'static str, &'static str)],
    /// Whether the id is bytes, written in hex everywhere else.
    binary_id: bool,
}

/// In the order of a walk.
const TABLES: [SealedTable; 3] = [
    SealedTable {
        name: "gw_destinations",
        list: "SELECT id, secret_sealed, previous_secret_sealed, headers_sealed FROM gw_destinations \
               WHERE id > $1 ORDER BY id LIMIT $2",
        columns: &[
            ("secret", "UPDATE gw_destinations SET secret_sealed = $3 WHERE id = $1 AND secret_sealed = $2"),
            (
                "previous_secret",
                "UPDATE gw_destinations SET previous_secret_sealed = $3 WHERE id = $1 AND previous_secret_sealed = $2",
            ),
            ("headers", "UPDATE gw_destinations SET headers_sealed = $3 WHERE id = $1 AND headers_sealed = $2"),
        ],
        binary_id: false,
    },
    SealedTable {
        name: "gw_oauth_states",
        list: "SELECT state_hash, pkce_verifier_sealed FROM gw_oauth_states \
               WHERE state_hash > $1 AND pkce_verifier_sealed IS NOT NULL ORDER BY state_hash LIMIT $2",
        columns: &[(
            "pkce_verifier",
            "UPDATE gw_oauth_states SET pkce_verifier_sealed = $3 WHERE state_hash = $1 AND pkce_verifier_sealed = $2",
        )],
        binary_id: true,
    },
    SealedTable {
        name: "gw_tokens",
        list: "SELECT installation_id, access_token_sealed, refresh_token_sealed FROM gw_tokens \
               WHERE installation_id > $1 ORDER BY installation_id LIMIT $2",
        columns: &[
            (
                "access_token",
                "UPDATE gw_tokens SET access_token_sealed = $3 WHERE installation_id = $1 AND access_token_sealed = $2",
            ),
            (
                "refresh_token",
                "UPDATE gw_tokens SET refresh_token_sealed = $3 WHERE installation_id = $1 AND refresh_token_sealed = $2",
            ),
        ],
        binary_id: false,
    },
];

pub(crate) async fn list(
    db: &mut Session<'_>,
    after: Option<&SealedCursor>,
    limit: u32,
) -> StoreResult<Vec<SealedValue>> {
    let from = after.and_then(|after| TABLES.iter().position(|table| table.name == after.table)).unwrap_or(0);
    let (mut values, mut left) = (Vec::new(), i64::from(limit));
    for table in &TABLES[from..] {
        if left <= 0 {
            break;
        }
        let after = after.filter(|after| after.table == table.name).map_or("", |after| after.row.as_str());
        let listing = query(table.list);
        let listing = if table.binary_id {
            let id = hex::decode(after).map_err(|_| foreign_row(table, after))?;
            listing.bind(id)
        } else {
            listing.bind(text(after).into_owned())
        };
        let rows = listing.bind(left).fetch_all(&mut *db.conn).await?;
        left -= i64::try_from(rows.len()).unwrap_or(left);
        for row in &rows {
            read(table, row, &mut values)?;
        }
    }
    Ok(values)
}

fn read(table: &SealedTable, row: &Row, values: &mut Vec<SealedValue>) -> StoreResult<()> {
    let mut fields = Fields::new(row);
    let id: String = if table.binary_id { hex::encode(fields.get::<&[u8]>()?) } else { fields.get()? };
    for (column, _) in table.columns {
        if let Some(sealed) = fields.get::<Option<String>>()? {
            values.push(SealedValue { table: table.name, row: id.clone(), column, sealed });
        }
    }
    Ok(())
}

pub(crate) async fn replace(db: &mut Session<'_>, value: &SealedValue, by: &str) -> StoreResult<bool> {
    let table = TABLES.iter().find(|table| table.name == value.table);
    let found = table.and_then(|table| {
        let (_, sql) = table.columns.iter().find(|(column, _)| *column == value.column)?;
        Some((table, *sql))
    });
    // A place that holds nothing sealed has no such value.
    let Some((table, sql)) = found else { return Ok(false) };
    let replacing = query(sql);
    let replacing = if table.binary_id {
        replacing.bind(hex::decode(&value.row).map_err(|_| foreign_row(table, &value.row))?)
    } else {
        replacing.bind(text(&value.row).into_owned())
    };
    let replaced = replacing.bind(value.sealed.as_str()).bind(by).execute(&mut *db.conn).await?;
    Ok(replaced.rows_affected() > 0)
}

/// A row's id that no walk gave out.
fn foreign_row(table: &SealedTable, row: &str) -> StoreError {
    StoreError::Inconsistent { table: table.name, column: "id", row: row.to_owned() }
}
