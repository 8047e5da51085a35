//! The lifecycle and audit log.

use super::{Builder, Fields, Row, Session, page, rows_wanted, text};
use crate::{
    model::{
        ids::{InstallationId, LogId, OrgId},
        log_entry::{Actor, LogEntry},
    },
    store::{Page, PageRequest, StoreResult},
};

pub(crate) async fn append(db: &mut Session<'_>, entries: &[LogEntry]) -> StoreResult<()> {
    let owned = |value: &Option<String>| value.as_deref().map(|value| text(value).into_owned());
    for entry in entries {
        let mut sql = Builder::new(
            "INSERT INTO gw_lifecycle_log (id, org_id, installation_id, subject, action, from_state, to_state, \
             reason, actor, actor_user, actor_from, at) ",
        );
        sql.push_values([entry], |mut row, entry| {
            row.push_bind(entry.id.as_str())
                .push_bind(entry.org.as_ref().map(|org| text(org.as_str()).into_owned()))
                .push_bind(entry.installation.as_ref().map(|id| id.as_str().to_owned()))
                .push_bind(owned(&entry.subject))
                .push_bind(&*text(&entry.action))
                .push_bind(owned(&entry.from_state))
                .push_bind(owned(&entry.to_state))
                .push_bind(owned(&entry.reason))
                .push_bind(&*text(&entry.actor.who))
                .push_bind(owned(&entry.actor.user))
                .push_bind(owned(&entry.actor.from))
                .push_bind(entry.at.0);
        });
        sql.build().execute(&mut *db.conn).await?;
    }
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
    if let Some(org) = org {
        sql.push(" AND org_id = ").push_bind(&*text(org.as_str()));
    }
    if let Some(installation) = installation {
        sql.push(" AND installation_id = ").push_bind(&*text(installation.as_str()));
    }
    if let Some(cursor) = request.cursor {
        sql.push(" AND id < ").push_bind(&*text(cursor));
    }
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
