//! `/console/keys`: API keys.

use actix_web::web;
use askama::Template;

use super::{
    layout::{Layout, Pager, Section},
    render, ui,
    visitor::Visitor,
};
use crate::{
    model::ids::KeyId,
    routes::{Answer, Gateway, Problem, Query, error_codes as codes},
    store::ApiKey,
};

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage {
    layout: Layout,
    items: Vec<ApiKey>,
    own: KeyId,
    pager: Pager,
}

/// `GET /console/keys`: the keys; service keys only.
pub async fn list(visitor: Visitor, query: Query, gateway: web::Data<Gateway>) -> Answer {
    if !visitor.caller.is_service() {
        return Err(Problem::new(&codes::SERVICE_KEY_REQUIRED));
    }
    let page = gateway.store.list_keys_page(visitor.caller.org.as_ref(), query.page(KeyId::PREFIX)?).await?;
    render(&KeysPage {
        layout: visitor.layout(Section::Keys, "API keys"),
        own: visitor.caller.key.id.clone(),
        pager: Pager::of(&query, page.next_cursor.as_deref()),
        items: page.items,
    })
}

/// The word of what a key may do.
fn scope(key: &ApiKey) -> &'static str {
    if key.can_write { "write" } else { "read" }
}
