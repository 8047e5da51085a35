//! Backfill runs.

use serde_json::Value;

use super::{Builder, Fields, Row, Session, log, page, push_given, query, rows_wanted, text};
use crate::{
    model::{
        backfill_run::{BackfillRun, BackfillStatus},
        clock::EpochMs,
        ids::{BackfillRunId, InstallationId, OrgId},
        log_entry::LogEntry,
    },
    store::{Page, PageRequest, StoreResult, known::KnownProviders},
};

macro_rules! backfill_run_columns {
    () => {
        "id, installation_id, org_id, provider, status, depth_days, entity_types, counts, error, started_at, \
         finished_at, created_at, updated_at"
    };
}

const FIND: &str = concat!("SELECT ", backfill_run_columns!(), " FROM gw_backfill_runs WHERE id = $1");

pub(super) const CANCEL: &str = "UPDATE gw_backfill_runs SET status = 'cancelled', finished_at = $2, updated_at = $2 \
     WHERE installation_id = $1 AND status IN ('pending', 'running')";

/// One that has ended is not opened again, whatever the writer had read of it before.
pub(crate) async fn save(db: &mut Session<'_>, run: &BackfillRun, entry: Option<&LogEntry>) -> StoreResult<bool> {
    let mut sql = Builder::new(concat!("INSERT INTO gw_backfill_runs (", backfill_run_columns!(), ") "));
    sql.push_values([run], |mut row, run| {
        row.push_bind(run.id.as_str())
            .push_bind(run.installation.as_str())
            .push_bind(&*text(run.org.as_str()))
            .push_bind(run.provider.as_str())
            .push_bind(run.status.as_str())
            .push_bind(run.depth_days.map(i64::from))
            .push_bind(run.entity_types.iter().map(String::as_str).collect::<Value>().to_string())
            .push_bind(Value::Object(run.counts.clone()).to_string())
            .push_bind(run.error.as_deref().map(|error| text(error).into_owned()))
            .push_bind(run.started_at.map(|at| at.0))
            .push_bind(run.finished_at.map(|at| at.0))
            .push_bind(run.created_at.0)
            .push_bind(run.updated_at.0);
    });
    sql.push(
        " ON CONFLICT (id) DO UPDATE SET status = excluded.status, depth_days = excluded.depth_days, \
         entity_types = excluded.entity_types, counts = excluded.counts, error = excluded.error, \
         started_at = excluded.started_at, finished_at = excluded.finished_at, updated_at = excluded.updated_at \
         WHERE gw_backfill_runs.status IN ('pending', 'running') OR gw_backfill_runs.status = excluded.status",
    );
    let is_saved = sql.build().execute(&mut *db.conn).await?.rows_affected() > 0;
    log::append(db, entry.filter(|_| is_saved).map_or(&[], std::slice::from_ref)).await?;
    Ok(is_saved)
}

pub(crate) async fn find(db: &mut Session<'_>, id: &BackfillRunId) -> StoreResult<Option<BackfillRun>> {
    let row = query(FIND).bind(&*text(id.as_str())).fetch_optional(&mut *db.conn).await?;
    row.map(|row| run(&row, db.known)).transpose()
}

pub(crate) async fn list(
    db: &mut Session<'_>,
    installation: &InstallationId,
    request: PageRequest<'_>,
) -> StoreResult<Page<BackfillRun>> {
    let mut sql =
        Builder::new(concat!("SELECT ", backfill_run_columns!(), " FROM gw_backfill_runs WHERE installation_id = "));
    sql.push_bind(&*text(installation.as_str()));
    push_given(&mut sql, [(" AND id < ", request.cursor)]);
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(rows_wanted(request));
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    let items = rows.iter().map(|row| run(row, db.known)).collect::<StoreResult<_>>()?;
    Ok(page(items, request, |run: &BackfillRun| run.id.as_str()))
}

pub(crate) async fn cancel(db: &mut Session<'_>, installation: &InstallationId, now: EpochMs) -> StoreResult<u64> {
    let cancelling = query(CANCEL).bind(&*text(installation.as_str())).bind(now.0);
    Ok(cancelling.execute(&mut *db.conn).await?.rows_affected())
}

fn run(row: &Row, known: &KnownProviders) -> StoreResult<BackfillRun> {
    let mut fields = Fields::new(row);
    Ok(BackfillRun {
        id: BackfillRunId::from_raw(fields.begin("gw_backfill_runs")?),
        installation: InstallationId::from_raw(fields.get::<&str>()?),
        org: OrgId::from_raw(fields.get::<&str>()?),
        provider: fields.word("provider", |word| known.find(word))?,
        status: fields.word("status", BackfillStatus::parse)?,
        depth_days: match fields.get::<Option<i64>>()? {
            Some(days) => Some(u32::try_from(days).map_err(|_| fields.inconsistent("depth_days"))?),
            None => None,
        },
        entity_types: fields.json("entity_types")?,
        counts: fields.json("counts")?,
        error: fields.get()?,
        started_at: fields.maybe_time()?,
        finished_at: fields.maybe_time()?,
        created_at: fields.time()?,
        updated_at: fields.time()?,
    })
}
