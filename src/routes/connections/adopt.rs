//! `POST /admin/connections`: adopt an installation that exists at the provider.

use actix_web::{HttpResponse, http::StatusCode, web};

use super::{
    super::{
        auth::{ServiceWriter, is_org_id},
        error_codes as codes,
        gateway::Gateway,
        problem::{Answer, Problem},
        request_body::ApiBody,
        schemas,
    },
    show,
};
use crate::{
    actors::binding::{AdoptInstallation, Bound},
    model::{ids::OrgId, provider::ExternalId},
};

/// `POST /admin/connections`: adopts an installation that exists at the provider. 201 for a new connection, 200 if the same
/// org has it, or had it: then it lives again.
///
/// # Errors
/// `invalid_json`, `missing_required_fields`, `invalid_fields`, `unknown_provider`, `invalid_org_id`, `forbidden`,
/// `installation_already_bound`.
#[utoipa::path(
    post, path = "/admin/connections",
    request_body = schemas::AdoptedInstallation,
    responses(
        (status = 200, description = "The org has it, or had it", body = schemas::Connection),
        (status = 201, body = schemas::Connection),
    ),
)]
pub async fn adopt(ServiceWriter(caller): ServiceWriter, body: ApiBody, gateway: web::Data<Gateway>) -> Answer {
    let mut members = body.members()?;
    let provider = members.required_text("provider");
    let external_id = members.required_id("externalId");
    let org = members.required_text("orgId");
    let connected_by = members.required_text("connectedBy");
    let account_login = members.text("accountLogin");
    let alternate = members.id("alternateExternalId");
    members.finish()?;
    let Some((provider, _)) = gateway.registry.find_enabled(&provider) else {
        return Err(Problem::new(&codes::UNKNOWN_PROVIDER).member("provider", provider));
    };
    if !is_org_id(&org) {
        return Err(Problem::new(&codes::INVALID_ORG_ID));
    }
    let org = OrgId::from_raw(org);
    if !caller.sees(Some(&org)) {
        return Err(Problem::new(&codes::FORBIDDEN));
    }
    let request = AdoptInstallation {
        provider: provider.slug(),
        external_id: ExternalId::new(external_id),
        alternate_external_id: alternate.map(ExternalId::new),
        org,
        connected_by,
        account_login,
        actor: caller.actor(),
    };
    let (installation, bound) = gateway.connecting.adopt(request).await?;
    let record = gateway.store.load_installation(&installation.id).await?;
    let resources = record.map(|record| record.resources).unwrap_or_default();
    let status = if bound == Bound::New { StatusCode::CREATED } else { StatusCode::OK };
    let mut shown = show(&gateway, &installation, &resources).await?;
    // The word under which every other route takes it.
    shown["connectionId"] = shown["id"].clone();
    Ok(HttpResponse::build(status).json(shown))
}
