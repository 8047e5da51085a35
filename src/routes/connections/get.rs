//! `GET /connections/{id}`

use actix_web::{HttpResponse, web};

use super::{
    super::{auth::Reader, gateway::Gateway, problem::Answer, schemas},
    load_visible, show,
};

/// `GET /connections/{id}`: a connection and its resources.
///
/// # Errors
/// `not_found`.
#[utoipa::path(get, path = "/connections/{id}", responses((status = 200, body = schemas::Connection)))]
pub async fn get(Reader(caller): Reader, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let record = load_visible(&gateway, &caller, &id).await?;
    Ok(HttpResponse::Ok().json(show(&gateway, &record.installation, &record.resources).await?))
}
