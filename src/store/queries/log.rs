//! The lifecycle and audit log.

use super::{Builder, Fields, Row, Session, page, push_given, row_statement::RowStatement, rows_wanted, text};
use crate::{
    model::{
        ids::{InstallationId, LogId, OrgId},
        log_entry::{Actor, LogEntry},
    },
    store::{Page, PageRequest, StoreResult},
};

static APPEND: RowStatement = RowStatement::new(
    "INSERT INTO gw_lifecycle_log (id, org_id, installation_id, subject, action, from_state, to_state, reason, actor, \
     actor_user, actor_from, at) SELECT * FROM",
    12,
    "",
);

pub(crate) async fn append(db: &mut Session<'_>, entries: &[LogEntry]) -> StoreResult<()> {
    let owned = |value: &Option<String>| value.as_deref().map(|value| text(value).into_owned());
    APPEND
        .execute(db.conn, entries, |row, entry| {
            row.bind(entry.id.as_str())
                .bind(entry.org.as_ref().map(|org| text(org.as_str()).into_owned()))
                .bind(entry.installation.as_ref().map(|id| id.as_str().to_owned()))
                .bind(owned(&entry.subject))
                .bind(&*text(&entry.action))
                .bind(owned(&entry.from_state))
                .bind(owned(&entry.to_state))
                .bind(owned(&entry.reason))
                .bind(&*text(&entry.actor.who))
                .bind(owned(&entry.actor.user))
                .bind(owned(&entry.actor.from))
                .bind(entry.at.0);
        })
        .await?;
    Ok(())
}

pub(crate) async fn list(
    db: &mut Session<'_>,
    org: Option<&OrgId>,
    installation: Option<&InstallationId>,
    request: PageRequest<'_>,
) -> StoreResult<Page<LogEntry>> {
    let mut sql = Builder::new(
        "SELECT id, org_id, installation_id, subject, action, from_state, to_state, reason, actor, actor_user, \
         actor_from, at FROM gw_lifecycle_log WHERE id IS NOT NULL",
    );
    let conditions = [
        (" AND org_id = ", org.map(OrgId::as_str)),
        (" AND installation_id = ", installation.map(InstallationId::as_str)),
        (" AND id < ", request.cursor),
    ];
    push_given(&mut sql, conditions);
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(rows_wanted(request));
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    let items = rows.iter().map(entry).collect::<StoreResult<_>>()?;
    Ok(page(items, request, |entry: &LogEntry| entry.id.as_str()))
}

fn entry(row: &Row) -> StoreResult<LogEntry> {
    let mut fields = Fields::new(row);
    Ok(LogEntry {
        id: LogId::from_raw(fields.begin("gw_lifecycle_log")?),
        org: fields.get::<Option<&str>>()?.map(OrgId::from_raw),
        installation: fields.get::<Option<&str>>()?.map(InstallationId::from_raw),
        subject: fields.get()?,
        action: fields.get()?,
        from_state: fields.get()?,
        to_state: fields.get()?,
        reason: fields.get()?,
        actor: Actor { who: fields.get()?, user: fields.get()?, from: fields.get()? },
        at: fields.time()?,
    })
}
