//! `GET /assets/…`: what the pages of connecting are made of, embedded as it is.

use actix_web::{HttpResponse, http::header};

const MODULE: &str = include_str!("../../../assets/connected.js");
const STYLES: &str = include_str!("../../../assets/connected.css");

/// Long enough for one visit, short enough for the next version.
const CACHING: &str = "public, max-age=300";

/// `GET /assets/connected.js`: the script of the page a flow ends on.
#[utoipa::path(get, path = "/assets/connected.js", responses((status = 200, content_type = "text/javascript", body = String)))]
pub async fn module() -> HttpResponse {
    file("text/javascript; charset=utf-8", MODULE)
}

/// `GET /assets/connected.css`: the styles of the pages of connecting.
#[utoipa::path(get, path = "/assets/connected.css", responses((status = 200, content_type = "text/css", body = String)))]
pub async fn styles() -> HttpResponse {
    file("text/css; charset=utf-8", STYLES)
}

fn file(kind: &'static str, content: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, kind))
        .insert_header((header::CACHE_CONTROL, CACHING))
        .body(content)
}
