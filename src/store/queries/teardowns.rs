//! Teardowns. As with deliveries, `due_at` is when a lease ends while there is one.

use super::{Builder, Fields, Session, query, text};
use crate::{
    model::{
        clock::EpochMs,
        ids::InstallationId,
        teardown::{StepStatus, Teardown},
    },
    store::StoreResult,
};

pub(super) const FIND: &str =
    concat!("SELECT ", teardown_columns!(), " FROM gw_teardowns t WHERE t.installation_id = $1");

pub(super) const LIST_DUE: &str = "SELECT installation_id FROM gw_teardowns WHERE status = 'running' \
     AND due_at <= $1 ORDER BY due_at LIMIT $2";

pub(super) const CLAIM: &str = "UPDATE gw_teardowns SET lease_owner = $2, due_at = $4, updated_at = $3 \
     WHERE installation_id = $1 AND status = 'running' AND due_at <= $3";

/// Whoever works on it waits until the change of its installation is over.
const LOCK: &str = concat!("SELECT installation_id FROM gw_teardowns WHERE installation_id = $1", for_update!());

pub(crate) async fn find(db: &mut Session<'_>, installation: &InstallationId) -> StoreResult<Option<Teardown>> {
    let row = query(FIND).bind(&*text(installation.as_str())).fetch_optional(&mut *db.conn).await?;
    row.map(|row| Fields::new(&row).teardown()).transpose()
}

pub(super) async fn lock(db: &mut Session<'_>, installation: &InstallationId) -> StoreResult<()> {
    query(LOCK).bind(&*text(installation.as_str())).fetch_optional(&mut *db.conn).await?;
    Ok(())
}

pub(crate) async fn list_due(db: &mut Session<'_>, now: EpochMs, limit: u32) -> StoreResult<Vec<InstallationId>> {
    let rows = query(LIST_DUE).bind(now.0).bind(i64::from(limit)).fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| Ok(InstallationId::from_raw(Fields::new(row).get::<&str>()?))).collect()
}

pub(crate) async fn claim(
    db: &mut Session<'_>,
    installation: &InstallationId,
    owner: &str,
    now: EpochMs,
    until: EpochMs,
) -> StoreResult<Option<Teardown>> {
    let claiming = query(CLAIM).bind(&*text(installation.as_str())).bind(&*text(owner)).bind(now.0).bind(until.0);
    let claimed = claiming.execute(&mut *db.conn).await?.rows_affected();
    if claimed == 0 { Ok(None) } else { find(db, installation).await }
}

/// The first step that is not settled, for whoever reads the table.
fn current_step(teardown: &Teardown) -> Option<String> {
    let current = teardown.steps.iter().find(|record| record.status == StepStatus::Pending)?;
    serde_json::to_value(current.step).ok()?.as_str().map(str::to_owned)
}

fn steps(teardown: &Teardown) -> String {
    serde_json::json!(teardown.steps).to_string()
}

pub(crate) async fn record(db: &mut Session<'_>, teardown: &Teardown, owner: &str) -> StoreResult<bool> {
    const RECORD: &str = "UPDATE gw_teardowns SET status = $3, current_step = $4, steps = $5, due_at = $6, \
         lease_owner = $7, finished_at = $8, updated_at = $9 \
         WHERE installation_id = $1 AND lease_owner = $2 AND status = 'running'";
    let recording = query(RECORD)
        .bind(&*text(teardown.installation.as_str()))
        .bind(&*text(owner))
        .bind(teardown.status.as_str())
        .bind(current_step(teardown))
        .bind(steps(teardown))
        .bind(teardown.due_at.0)
        .bind(teardown.lease_owner.as_deref().map(|owner| text(owner).into_owned()))
        .bind(teardown.finished_at.map(|at| at.0))
        .bind(teardown.updated_at.0);
    Ok(recording.execute(&mut *db.conn).await?.rows_affected() > 0)
}

/// Inserts the teardown of an installation, or replaces the one before it.
pub(super) async fn save(db: &mut Session<'_>, teardown: &Teardown) -> StoreResult<()> {
    let mut sql = Builder::new(
        "INSERT INTO gw_teardowns (installation_id, org_id, reason, status, current_step, steps, due_at, \
         lease_owner, started_at, finished_at, updated_at) ",
    );
    sql.push_values([teardown], |mut row, teardown| {
        row.push_bind(teardown.installation.as_str())
            .push_bind(&*text(teardown.org.as_str()))
            .push_bind(&*text(&teardown.reason))
            .push_bind(teardown.status.as_str())
            .push_bind(current_step(teardown))
            .push_bind(steps(teardown))
            .push_bind(teardown.due_at.0)
            .push_bind(teardown.lease_owner.as_deref().map(|owner| text(owner).into_owned()))
            .push_bind(teardown.started_at.0)
            .push_bind(teardown.finished_at.map(|at| at.0))
            .push_bind(teardown.updated_at.0);
    });
    sql.push(
        " ON CONFLICT (installation_id) DO UPDATE SET org_id = excluded.org_id, reason = excluded.reason, \
         status = excluded.status, current_step = excluded.current_step, steps = excluded.steps, \
         due_at = excluded.due_at, lease_owner = excluded.lease_owner, started_at = excluded.started_at, \
         finished_at = excluded.finished_at, updated_at = excluded.updated_at",
    );
    sql.build().execute(&mut *db.conn).await?;
    Ok(())
}
