//! The console: pages that show what the gateway does, under `/console`.
//!
//! **Owns** the pages, their templates (`templates/`), stylesheet and script (`assets/console.*`), and signing in and out.
//! **Invariants**: a page only reads; whatever changes anything is a call of the JSON API, sent by the script with the
//! session's cookie, so the API is enough for any other console; text from outside is escaped by the templates; no page
//! has an inline script or style. **Must not know** how anything is changed.
//!
//! # How to add a page
//!
//! A page is a file here, a template of the same name, and a row in [`configure`]:
//!
//! ```ignore
//! //! `/console/quarantine`: webhooks set aside.
//!
//! #[derive(Template)]
//! #[template(path = "quarantine.html")]
//! struct QuarantinePage {
//!     layout: Layout,                       // every page has one, and the template extends "layout.html"
//!     items: Vec<Quarantined>,
//!     pager: Pager,
//! }
//!
//! pub async fn show(visitor: Visitor, query: Query, gateway: web::Data<Gateway>) -> Answer {
//!     let page = gateway.store.list_quarantined(query.get("provider"), query.page("qtn_")?).await?;
//!     render(&QuarantinePage {
//!         layout: visitor.layout(Section::Quarantine, "Quarantine"),
//!         pager: Pager::of(&query, page.next_cursor.as_deref()),
//!         items: page.items,
//!     })
//! }
//! ```
//!
//! ```html
//! {% extends "layout.html" %}
//! {% block main %}
//! <header class="head"><h1>Quarantine</h1> … actions, as `.btn` …</header>
//! <section id="list" data-live>
//!   {% if items.is_empty() %}
//!   <div class="empty"><h2>Nothing is set aside</h2><p>What to do next.</p></div>
//!   {% else %}
//!   <div class="table"><table> … <td data-label="Received">{{ ui::time(it.received_at, layout.now) }}</td> … </table></div>
//!   {% endif %}
//!   {{ pager }}
//! </section>
//! {% endblock %}
//! ```
//!
//! - [`Visitor`] in the signature: who looks. `visitor.caller` is the [`Caller`](crate::routes::Caller) of the JSON API: check
//!   the org with `caller.sees(…)` and answer `Problem::new(&codes::NOT_FOUND)`; problems become pages by themselves, and who is
//!   not signed in is sent to the sign-in page. Without an org (`caller.org`) a service key sees all of them.
//! - [`ui`] has what templates call: `ui::time(at, layout.now)`, `ui::maybe_time(…)`, `ui::badge(word)`, `ui::id(text)`,
//!   `ui::provider(slug)`, `ui::count(number)`, `ui::duration(ms)`. Arguments that are no literals arrive as references.
//! - `FilterField::of_providers(&query, …)`, `of_connections`, `of_words` are fields that narrow a list, for a
//!   `<form class="filters" method="get" data-auto>`; `Pager::of_search` is the pager of a search that may stop early.
//! - Links and addresses begin with `{{ layout.base }}`. Tables get `data-label` on each cell: at 380 px rows are cards.
//! - `data-live` on an element with an id: it is refreshed every few seconds, and at once when an event of the org arrives, by
//!   asking the same page with `?fragment=1` (which leaves the layout out) and taking the element of that id. What has
//!   the focus or an open menu is left alone. `data-live="30"` says how many seconds.
//! - Changes: `<form data-api="PUT /workspaces/{workspace}/destination">` or `<button data-api="POST /events/evt_1/replay">`.
//!   The script sends the fields as JSON (`name="a.b"` nests, `name="a[]"` collects, `data-type="number|json|lines"` converts,
//!   a `{name}` in the path is filled in from a field) and shows the problem document's title and detail when refused.
//!   `data-body='{"a":1}'` is sent along, `data-confirm="What will happen"` asks first (`data-confirm-verb="Disconnect"`),
//!   `data-then="reload|stay|/console/…{member}|show:dialog-id"` says how it goes on (`show` fills `[data-show="member"]` of a
//!   `<dialog>`, unless it is `data-only-with` a member that the answer does not have), `data-done="Saved"` what is said
//!   (`data-done-empty` if the answer's `status` is `empty`).
//!   `data-chunk="deliveryIds:50"` sends a long list in portions and shows a bar in `[data-progress]`; with
//!   `data-every="/deliveries?status=dead"` the list is whatever that search finds, counted first by `/deliveries/count`;
//!   `data-report="#id"` names the part of the page that says how far it is, names what was left out, and can stop it.
//!   Show them only `{% if layout.can_write %}`.
//! - Also: `data-copy="text"`, `data-check-all="name[]"`, `data-count="name[]"`, `data-filter="#list-id"` (on a search field:
//!   hides what does not match), `data-dialog="id"` (opens a dialog), `data-auto` on a GET form (submits itself).
//! - A fresh page wants a test in `tests/it/console.rs` and a look at it, at 1280 and 380 px, light and dark.

mod assets;
pub mod chart;
mod connection;
mod connections;
mod dead_letters;
mod destinations;
mod event;
mod events;
mod filter_field;
mod frame;
mod indented;
mod integration;
mod keys;
pub mod layout;
mod overview;
mod quarantine;
mod session;
mod settings;
pub mod ui;
pub mod visitor;
mod workspace;
mod workspaces;

use actix_web::{HttpResponse, http::header, middleware::from_fn, web};
use askama::Template;

use self::visitor::Visitor;
use crate::routes::{Answer, Problem, error_codes as codes};

/// Registers the console.
pub fn configure(config: &mut web::ServiceConfig) {
    let page = |path: &str| web::resource(path.to_owned());
    config.service(
        web::scope("/console")
            .wrap(from_fn(frame::frame))
            .service(page("").route(web::get().to(overview::show)))
            .service(page("/workspaces").route(web::get().to(workspaces::show)))
            .service(page("/workspaces/{id}").route(web::get().to(workspace::show)))
            .service(page("/integrations/{id}").route(web::get().to(integration::show)))
            .service(page("/destinations").route(web::get().to(destinations::show)))
            .service(page("/connections").route(web::get().to(connections::list)))
            .service(page("/connections/{id}").route(web::get().to(connection::show)))
            .service(page("/events").route(web::get().to(events::list)))
            .service(page("/events/{id}").route(web::get().to(event::show)))
            .service(page("/dead-letters").route(web::get().to(dead_letters::list)))
            .service(page("/quarantine").route(web::get().to(quarantine::list)))
            .service(page("/quarantine/{id}").route(web::get().to(quarantine::show)))
            .service(page("/keys").route(web::get().to(keys::list)))
            .service(page("/settings").route(web::get().to(settings::show)))
            .service(page("/login").route(web::get().to(session::form)))
            .service(page("/session").route(web::get().to(session::tell)).route(web::post().to(session::begin)))
            .service(page("/sign-out").route(web::post().to(session::end)))
            .service(page("/assets/{version}/{name}").route(web::get().to(assets::serve)))
            .default_service(web::to(no_such_page)),
    );
}

async fn no_such_page(_visitor: Visitor) -> Answer {
    Err(Problem::new(&codes::NOT_FOUND))
}

/// A page as an answer.
///
/// # Errors
/// If the template fails, which it does only if a value in it cannot be shown.
fn render(page: &impl Template) -> Answer {
    let html = page.render().map_err(|error| Problem::new(&codes::INTERNAL_ERROR).caused_by(error))?;
    Ok(HttpResponse::Ok().insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8")).body(html))
}
