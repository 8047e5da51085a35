//! `GET /assets/…`: what the pages of connecting are made of, embedded as it is.

use actix_web::{HttpResponse, http::header};

const MODULE: &str = include_str!("../../../assets/connected.js");
const STYLES: &str = include_str!("../../../assets/connected.css");

/// Long enough for one visit, short enough for the next version.
const CACHING: &str = "public, max-age=300";

/// `GET /assets/connected.js`
pub async fn module() -> HttpResponse {
    file("text/javascript; charset=utf-8", MODULE)
}

/// `GET /assets/connected.css`
pub async fn styles() -> HttpResponse {
    file("text/css; charset=utf-8", STYLES)
}

fn file(kind: &'static str, content: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, kind))
        .insert_header((header::CACHE_CONTROL, CACHING))
        .body(content)
}
