//! `/console/assets/{version}/{name}`: stylesheet, script and icon, embedded as they are. Their address has the hash of
//! their content, so browsers keep them for good.

use std::{
    hash::{DefaultHasher, Hasher as _},
    sync::LazyLock,
};

use actix_web::{HttpResponse, http::header, web};

use crate::routes::{Answer, Problem, error_codes as codes};

struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

const ASSETS: [Asset; 3] = [
    Asset { name: "console.css", kind: "text/css; charset=utf-8", content: include_str!("../../assets/console.css") },
    Asset {
        name: "console.js",
        kind: "text/javascript; charset=utf-8",
        content: include_str!("../../assets/console.js"),
    },
    Asset { name: "icon.svg", kind: "image/svg+xml", content: include_str!("../../assets/icon.svg") },
];

/// The version of all of them together.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    for asset in &ASSETS {
        hasher.write(asset.content.as_bytes());
    }
    format!("{:016x}", hasher.finish())
});

/// The path of the assets, below that of the gateway.
pub fn path() -> String {
    format!("/console/assets/{}", *VERSION)
}

/// Serves one. Another version's address is served too, but not kept: a page of the release before may ask for it.
pub async fn serve(path: web::Path<(String, String)>) -> Answer {
    let (version, name) = path.into_inner();
    let asset = ASSETS.iter().find(|asset| asset.name == name).ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    let caching = if version == *VERSION { "public, max-age=31536000, immutable" } else { "no-store" };
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, asset.kind))
        .insert_header((header::CACHE_CONTROL, caching))
        .body(asset.content))
}
