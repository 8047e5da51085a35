//! `/connections/{id}/backfill-runs`: what the backfill service reports of its progress.
//!
//! **Invariants**: a run that has ended stays ended; a connection that has ended begins no runs; who reported is in the log,
//! unless a report only counts on.

use actix_web::{HttpResponse, http::StatusCode, web};
use serde_json::{Map, Value, json};

use super::{
    super::{
        auth::{Reader, Writer},
        error_codes as codes,
        gateway::Gateway,
        problem::{Answer, Problem},
        query::{Query, page_json},
        request_body::{ApiBody, Members, as_text},
        schemas,
    },
    get_visible, time_json,
};
use crate::model::{
    backfill_run::{BackfillRun, BackfillStatus},
    clock::EpochMs,
    ids::BackfillRunId,
    installation::InstallationStatus,
};

/// How far back a run may reach, days.
const MAX_DEPTH_DAYS: u32 = 36_500;
/// Entity types, and counts, of a run at the most.
const MAX_NAMES: usize = 50;

/// `GET /connections/{id}/backfill-runs`: the backfill service's runs, newest first.
///
/// # Errors
/// `not_found`, `invalid_parameter`.
#[utoipa::path(
    get, path = "/connections/{id}/backfill-runs",
    params(schemas::Paging),
    responses((status = 200, body = schemas::Page<schemas::BackfillRun>)),
)]
pub async fn list(Reader(caller): Reader, id: web::Path<String>, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let installation = get_visible(&gateway, &caller, &id).await?;
    let page = gateway.store.list_backfill_runs(&installation.id, query.page(BackfillRunId::PREFIX)?).await?;
    Ok(HttpResponse::Ok().json(page_json(&page, run_json)))
}

/// `POST /connections/{id}/backfill-runs {id?, status?, depth?, entityTypes?, counts?, error?, startedAt?, finishedAt?}`:
/// takes a report of the backfill service. Without `id` a new run (201), with it a report about that one, of which only what is given changes (200).
///
/// # Errors
/// `not_found`, `invalid_json`, `invalid_fields`, `invalid_backfill_transition`, `installation_not_active`.
#[utoipa::path(
    post, path = "/connections/{id}/backfill-runs",
    request_body = schemas::BackfillReport,
    responses((status = 200, body = schemas::BackfillRun), (status = 201, body = schemas::BackfillRun)),
)]
pub async fn save(Writer(caller): Writer, id: web::Path<String>, body: ApiBody, gateway: web::Data<Gateway>) -> Answer {
    let installation = get_visible(&gateway, &caller, &id).await?;
    let mut members = body.members()?;
    let run_id = members.text("id");
    let report = Report::read(&mut members);
    members.finish()?;
    let now = gateway.clock.now();
    let is_new = run_id.is_none();
    let (known, status) = match run_id {
        None => (BackfillRun::pending(gateway.ids.backfill_run(), &installation, now), StatusCode::CREATED),
        Some(run_id) => {
            let found = gateway.store.find_backfill_run(&BackfillRunId::from_raw(run_id)).await?;
            let own = found.filter(|run| run.installation == installation.id);
            (own.ok_or_else(|| Problem::new(&codes::NOT_FOUND))?, StatusCode::OK)
        }
    };
    let before = known.clone();
    let run = apply(known, report, now)?;
    if installation.status == InstallationStatus::Revoked && !run.status.is_final() {
        let problem = Problem::new(&codes::INSTALLATION_NOT_ACTIVE);
        return Err(problem.member("connectionStatus", installation.status.as_str()));
    }
    let from = (!is_new).then_some(before.status);
    let entry = run.entry(gateway.ids.log(), "backfill_run.reported", from, caller.actor());
    let is_told = is_new || !only_counts_on(&before, &run);
    if !gateway.store.save_backfill_run(&run, is_told.then_some(&entry)).await? {
        // It ended while this report was on its way.
        let present = gateway.store.find_backfill_run(&run.id).await?;
        return Err(cannot_go(present.map_or(before.status, |present| present.status), run.status));
    }
    Ok(HttpResponse::build(status).json(run_json(&run)))
}

/// What a report says.
#[derive(Debug, Default)]
struct Report {
    status: Option<BackfillStatus>,
    depth_days: Option<u32>,
    entity_types: Option<Vec<String>>,
    counts: Option<Map<String, Value>>,
    error: Option<String>,
    started_at: Option<EpochMs>,
    finished_at: Option<EpochMs>,
}

impl Report {
    /// Complaints stay in `members`.
    fn read(members: &mut Members) -> Self {
        Self {
            status: members.optional("status", |word| BackfillStatus::parse(word.as_str()?)),
            depth_days: members.optional("depth", |depth| {
                depth.as_u64().and_then(|days| u32::try_from(days).ok()).filter(|days| *days <= MAX_DEPTH_DAYS)
            }),
            entity_types: members.optional("entityTypes", |types| {
                let types = types.as_array().filter(|types| types.len() <= MAX_NAMES)?;
                types.iter().map(as_text).collect()
            }),
            counts: members.optional("counts", |counts| match counts {
                Value::Object(counts) if counts.len() <= MAX_NAMES && counts.values().all(Value::is_number) => {
                    Some(counts)
                }
                _ => None,
            }),
            error: members.text("error"),
            started_at: members.time("startedAt"),
            finished_at: members.time("finishedAt"),
        }
    }
}

/// The run after a report. A run may be reported late, so that it can begin in any status; from there it only goes on.
fn apply(mut run: BackfillRun, report: Report, now: EpochMs) -> Result<BackfillRun, Problem> {
    let to = report.status.unwrap_or(run.status);
    let goes_on = to == run.status || (!run.status.is_final() && to != BackfillStatus::Pending);
    if !goes_on {
        return Err(cannot_go(run.status, to));
    }
    run.status = to;
    run.depth_days = report.depth_days.or(run.depth_days);
    run.entity_types = report.entity_types.unwrap_or(run.entity_types);
    // Counts are reported one by one or all at once.
    run.counts.extend(report.counts.unwrap_or_default());
    run.error = report.error.or(run.error);
    let began = (to != BackfillStatus::Pending).then_some(now);
    run.started_at = report.started_at.or(run.started_at).or(began);
    run.finished_at = report.finished_at.or(run.finished_at).or(to.is_final().then_some(now));
    run.updated_at = now;
    Ok(run)
}

/// Whether nothing but the counts is other. A service may tell those every few seconds.
fn only_counts_on(before: &BackfillRun, after: &BackfillRun) -> bool {
    BackfillRun { counts: before.counts.clone(), updated_at: before.updated_at, ..after.clone() } == *before
}

fn cannot_go(from: BackfillStatus, to: BackfillStatus) -> Problem {
    Problem::new(&codes::INVALID_BACKFILL_TRANSITION).member("from", from.as_str()).member("to", to.as_str())
}

fn run_json(run: &BackfillRun) -> Value {
    json!({
        "id": run.id,
        "connectionId": run.installation,
        "orgId": run.org,
        "provider": run.provider,
        "status": run.status,
        "depth": run.depth_days,
        "entityTypes": run.entity_types,
        "counts": run.counts,
        "error": run.error,
        "startedAt": time_json(run.started_at),
        "finishedAt": time_json(run.finished_at),
        "createdAt": run.created_at.to_rfc3339(),
        "updatedAt": run.updated_at.to_rfc3339(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ids::{InstallationId, OrgId},
        provider::ProviderSlug,
    };

    fn run(status: BackfillStatus) -> BackfillRun {
        BackfillRun {
            id: BackfillRunId::from_raw("bfr_1"),
            installation: InstallationId::from_raw("in_1"),
            org: OrgId::from_raw("org"),
            provider: ProviderSlug("acme"),
            status,
            depth_days: Some(30),
            entity_types: vec!["issue".into()],
            counts: Map::new(),
            error: None,
            started_at: None,
            finished_at: None,
            created_at: EpochMs(1),
            updated_at: EpochMs(1),
        }
    }

    #[test]
    fn a_run_goes_on_and_never_back() {
        use BackfillStatus::{Cancelled, Completed, Failed, Pending, Running};
        for from in BackfillStatus::ALL {
            for to in BackfillStatus::ALL {
                let report = Report { status: Some(to), ..Report::default() };
                let allowed = match from {
                    Pending => true,
                    Running => to != Pending,
                    Completed | Failed | Cancelled => to == from,
                };
                assert_eq!(apply(run(from), report, EpochMs(9)).is_ok(), allowed, "{from} → {to}");
            }
        }
    }

    #[test]
    fn a_report_changes_what_it_names_and_times_follow_the_status() {
        let counts = json!({"issues": 7});
        let report = Report {
            status: Some(BackfillStatus::Completed),
            counts: counts.as_object().cloned(),
            ..Report::default()
        };
        let run = apply(run(BackfillStatus::Running), report, EpochMs(9)).expect("goes on");
        assert_eq!((run.depth_days, run.entity_types.len()), (Some(30), 1));
        assert_eq!((run.started_at, run.finished_at), (Some(EpochMs(9)), Some(EpochMs(9))));
        assert_eq!(Value::Object(run.counts), counts);
    }
}
