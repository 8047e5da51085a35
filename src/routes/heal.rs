//! `/admin/heal`: comparing a provider's own delivery log with what was received.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{
    auth::{ServiceReader, ServiceWriter},
    connections::time_json,
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
    query::{Query, page_json},
    request_body::ApiBody,
    schemas,
};
use crate::model::{clock::EpochMs, heal_run::HealRun, ids::HealRunId};

/// `POST /admin/heal {provider, since?}`: compares a provider's delivery log with what was received. `since` in RFC 3339 or epoch milliseconds, without it as far back as the
/// provider can deliver again. Answers the report once what was asked for has arrived, or had its time to.
///
/// # Errors
/// `invalid_json`, `missing_required_fields`, `invalid_fields`, `unknown_provider`, `not_supported`,
/// `connecting_not_configured`, `heal_already_running`.
#[utoipa::path(post, path = "/admin/heal", request_body = schemas::HealRequest, responses((status = 200, body = schemas::HealRun)))]
pub async fn heal(ServiceWriter(caller): ServiceWriter, body: ApiBody, gateway: web::Data<Gateway>) -> Answer {
    let mut members = body.members()?;
    let provider = members.required_text("provider");
    let now = gateway.clock.now();
    let since = members.optional("since", |since| since_of(&since).filter(|since| *since <= now));
    members.finish()?;
    let run = gateway.healing.heal(&provider, since, &caller.actor()).await;
    let run = run.map_err(|error| match Problem::from(error) {
        problem if *problem.code() == codes::HEAL_ALREADY_RUNNING => problem,
        problem => problem.member("provider", provider),
    })?;
    Ok(HttpResponse::Ok().json(run_json(&run)))
}

fn since_of(value: &Value) -> Option<EpochMs> {
    match value {
        Value::Number(number) => number.as_i64().filter(|ms| *ms >= 0).map(EpochMs),
        Value::String(text) => EpochMs::parse_rfc3339(text),
        _ => None,
    }
}

/// `GET /admin/heal?provider`: the reports of comparisons, newest first.
///
/// # Errors
/// `invalid_parameter`.
#[utoipa::path(
    get, path = "/admin/heal",
    params(("provider" = Option<String>, Query), schemas::Paging),
    responses((status = 200, body = schemas::Page<schemas::HealRun>)),
)]
pub async fn list(_caller: ServiceReader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let page = gateway.store.list_heal_runs(query.get("provider"), query.page(HealRunId::PREFIX)?).await?;
    Ok(HttpResponse::Ok().json(page_json(&page, run_json)))
}

fn run_json(run: &HealRun) -> Value {
    json!({
        "id": run.id,
        "provider": run.provider,
        "status": run.status.as_str(),
        "cause": run.cause,
        "since": run.since.to_rfc3339(),
        "until": run.until.to_rfc3339(),
        "examined": run.examined,
        "missing": run.missing,
        "requested": run.requested,
        "healed": run.healed,
        "outstanding": run.requested.saturating_sub(run.healed),
        "refused": run.refused,
        "error": run.error,
        "startedAt": run.until.to_rfc3339(),
        "finishedAt": time_json(run.finished_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_in_either_writing() {
        let expected = Some(EpochMs(1_771_980_000_000));
        assert_eq!(since_of(&json!(1_771_980_000_000_i64)), expected);
        assert_eq!(since_of(&json!("2026-02-25T00:40:00Z")), expected);
        for bad in [json!("yesterday"), json!(-1), json!(1.5), json!([])] {
            assert_eq!(since_of(&bad), None, "{bad}");
        }
    }
}
