//! Heal runs. A unique index keeps a second running one of a provider out.

use super::{Builder, Fields, Row, Session, page, push_given, query, rows_wanted, text};
use crate::{
    model::{
        clock::EpochMs,
        heal_run::{HealRun, HealStatus},
        ids::HealRunId,
    },
    store::{Page, PageRequest, StoreResult, known::KnownProviders},
};

macro_rules! heal_run_columns {
    () => {
        "id, provider, since, until, status, cause, examined, missing, requested, healed, refused, error, owner, \
         finished_at, updated_at"
    };
}

pub(super) const FAIL_THE_STALE: &str = "UPDATE gw_heal_runs SET status = 'failed', error = 'abandoned', \
     finished_at = $3, updated_at = $3 WHERE provider = $1 AND status = 'running' AND updated_at <= $2";

pub(crate) async fn begin(db: &mut Session<'_>, run: &HealRun, stale_before: EpochMs) -> StoreResult<bool> {
    let failing = query(FAIL_THE_STALE).bind(run.provider.as_str()).bind(stale_before.0).bind(run.updated_at.0);
    failing.execute(&mut *db.conn).await?;
    let mut sql = Builder::new(concat!("INSERT INTO gw_heal_runs (", heal_run_columns!(), ") "));
    sql.push_values([run], |mut row, run| {
        row.push_bind(run.id.as_str())
            .push_bind(run.provider.as_str())
            .push_bind(run.since.0)
            .push_bind(run.until.0)
            .push_bind(run.status.as_str())
            .push_bind(&*text(&run.cause))
            .push_bind(i64::from(run.examined))
            .push_bind(i64::from(run.missing))
            .push_bind(i64::from(run.requested))
            .push_bind(i64::from(run.healed))
            .push_bind(i64::from(run.refused))
            .push_bind(run.error.as_deref().map(|error| text(error).into_owned()))
            .push_bind(&*text(&run.owner))
            .push_bind(run.finished_at.map(|at| at.0))
            .push_bind(run.updated_at.0);
    });
    sql.push(" ON CONFLICT (provider) WHERE status = 'running' DO NOTHING");
    Ok(sql.build().execute(&mut *db.conn).await?.rows_affected() > 0)
}

pub(crate) async fn save(db: &mut Session<'_>, run: &HealRun) -> StoreResult<()> {
    const SAVE: &str = "UPDATE gw_heal_runs SET status = $3, examined = $4, missing = $5, requested = $6, \
         healed = $7, refused = $8, error = $9, finished_at = $10, updated_at = $11 \
         WHERE id = $1 AND owner = $2 AND status = 'running'";
    query(SAVE)
        .bind(&*text(run.id.as_str()))
        .bind(&*text(&run.owner))
        .bind(run.status.as_str())
        .bind(i64::from(run.examined))
        .bind(i64::from(run.missing))
        .bind(i64::from(run.requested))
        .bind(i64::from(run.healed))
        .bind(i64::from(run.refused))
        .bind(run.error.as_deref().map(|error| text(error).into_owned()))
        .bind(run.finished_at.map(|at| at.0))
        .bind(run.updated_at.0)
        .execute(&mut *db.conn)
        .await?;
    Ok(())
}

pub(crate) async fn list(
    db: &mut Session<'_>,
    provider: Option<&str>,
    request: PageRequest<'_>,
) -> StoreResult<Page<HealRun>> {
    let mut sql = Builder::new(concat!("SELECT ", heal_run_columns!(), " FROM gw_heal_runs WHERE id IS NOT NULL"));
    push_given(&mut sql, [(" AND provider = ", provider), (" AND id < ", request.cursor)]);
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(rows_wanted(request));
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    let items = rows.iter().map(|row| run(row, db.known)).collect::<StoreResult<_>>()?;
    Ok(page(items, request, |run: &HealRun| run.id.as_str()))
}

fn run(row: &Row, known: &KnownProviders) -> StoreResult<HealRun> {
    let mut fields = Fields::new(row);
    Ok(HealRun {
        id: HealRunId::from_raw(fields.begin("gw_heal_runs")?),
        provider: fields.word("provider", |word| known.find(word))?,
        since: fields.time()?,
        until: fields.time()?,
        status: fields.word("status", HealStatus::parse)?,
        cause: fields.get()?,
        examined: fields.number("examined")?,
        missing: fields.number("missing")?,
        requested: fields.number("requested")?,
        healed: fields.number("healed")?,
        refused: fields.number("refused")?,
        error: fields.get()?,
        owner: fields.get()?,
        finished_at: fields.maybe_time()?,
        updated_at: fields.time()?,
    })
}
