//! `GET /admin/doctor`: what `signalbox doctor` finds, of the gateway that runs.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{auth::ServiceReader, gateway::Gateway, problem::Answer, schemas};
use crate::doctor::{Verdict, examine_running};

/// `GET /admin/doctor`: examines the gateway that runs, as `signalbox doctor` examines one before it starts.
///
/// # Errors
/// None of its own.
#[utoipa::path(get, path = "/admin/doctor", responses((status = 200, body = schemas::DoctorReport)))]
pub async fn examine(_caller: ServiceReader, gateway: web::Data<Gateway>) -> Answer {
    let public_url = gateway.connecting.public_url().base();
    let report = examine_running(&gateway.config, public_url, gateway.store.as_ref(), &gateway.registry).await;
    Ok(HttpResponse::Ok().json(json!({
        "mistakes": report.count(Verdict::Mistake),
        "warnings": report.count(Verdict::Warning),
        "findings": report.findings,
    })))
}
