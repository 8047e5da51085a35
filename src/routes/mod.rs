//! The HTTP routes: the whole URL table on one page. A handler's file follows its path.
//!
//! **Owns** everything that is said over HTTP except the console. **Invariants**: a handler names who may call it in its
//! signature ([`Reader`], [`Writer`], …); every error is a [`Problem`]; every request goes through [`frame`]; another
//! org's id is answered like one that does not exist. **Must not know** an actor's address, a pool, or a provider's
//! network: it asks handles and reads the store.

mod activity;
mod admin;
mod auth;
mod brake;
mod connecting;
mod connections;
mod cors;
mod deliveries;
mod destinations;
mod dlq;
mod doctor;
pub mod error_codes;
mod events;
mod explain;
mod gateway;
mod heal;
mod health;
mod ingest;
mod integrations;
mod keys;
pub mod openapi;
mod orgs;
mod problem;
mod providers;
mod quarantine;
mod query;
mod request_body;
mod request_frame;
mod schemas;
pub mod session;
mod settings;
mod stream;
mod unread_body;
mod webhooks;
mod workspaces;

use actix_web::{HttpResponse, http::Method, web};

use self::openapi::Operation;
pub use self::{
    activity::{Bucket, Window, chart},
    auth::{Caller, KeyRing, KnownKey, Reader, ServiceReader, ServiceWriter, Writer},
    brake::Brake,
    connecting::escaped,
    connections::{ConnectionFacts, facts_of, list::find_page as list_connections},
    explain::explanation,
    gateway::{Gateway, Readiness},
    problem::{Answer, Problem},
    quarantine::{beginning_of, header_names},
    query::Query,
    request_body::{ApiBody, BodyBudget, MAX_API_BODY_BYTES},
    request_frame::{RequestIds, frame, log_cause, note},
    settings::{shown_settings, source_word},
};

/// The URL table: what [`configure`] registers, a method that is not in it answered 405 with `Allow`; and, row by row, what
/// the OpenAPI document is made of. A handler without `#[utoipa::path(…)]` does not compile here.
macro_rules! table {
    ($($path:literal { $($($method:ident)+ => $handler:path),+ })*) => {
        /// Registers every route. The app wraps itself in [`frame`] (`actix_web::middleware::from_fn(routes::frame)`) and
        /// holds `web::Data` of [`Gateway`] and [`Ids`](crate::model::clock::Ids), shared by all workers, and of
        /// [`RouterHandle`](crate::actors::webhook_router::RouterHandle), each worker's own.
        pub fn configure(config: &mut web::ServiceConfig) {
            config.default_service(web::to(no_such_route));
            $(config.service(
                web::resource($path)
                    $($(.route(web::method(Method::$method).to($handler)))+)+
                    .default_service(web::to(|| async { refuse_method(&[$($(stringify!($method)),+),+]) })),
            );)*
        }

        /// The rows, for the document.
        fn operations() -> Vec<Operation> {
            vec![$($($(Operation::of(stringify!($method), $path, stringify!($handler), $handler)),+),+),*]
        }

        /// The handlers' annotations.
        #[derive(utoipa::OpenApi)]
        #[openapi(paths($($($handler),+),*))]
        struct Annotations;
    };
}

#[rustfmt::skip]
table! {
    "/"                                              { GET HEAD => health::name }
    "/healthz"                                       { GET HEAD => health::is_alive }
    "/readyz"                                        { GET HEAD => health::is_ready }
    "/metrics"                                       { GET => health::metrics }
    "/openapi.json"                                  { GET => openapi::serve }

    "/webhooks/{provider}"                           { POST => webhooks::receive }
    "/providers"                                     { GET => providers::list }

    "/connections"                                   { GET => connections::list::list }
    "/connections/oauth/status"                      { GET => connecting::status::status }
    "/connections/{provider}/authorize"              { GET => connecting::authorize::authorize }
    "/connections/{provider}/callback"               { GET => connecting::callback::arrive }
    "/connect/{provider}/{state}"                    { GET => connecting::launch::launch }
    "/assets/connected.js"                           { GET => connecting::assets::module }
    "/assets/connected.css"                          { GET => connecting::assets::styles }

    "/connections/{id}"                              { GET => connections::get::get, DELETE => connections::delete::delete }
    "/connections/{id}/token"                        { GET => connections::token::read }
    "/connections/{id}/teardown"                     { GET => connections::teardown::get }
    "/connections/{id}/validate"                     { POST => connections::validate::validate }
    "/connections/{id}/available-resources"          { GET => connections::available_resources::list }
    "/connections/{id}/config"                       { GET => connections::config::get }
    "/connections/{id}/proxy/endpoints"              { GET => connections::proxy::endpoints }
    "/connections/{id}/proxy/execute"                { POST => connections::proxy::execute }
    "/connections/{id}/backfill-runs"                { GET => connections::backfill_runs::list, POST => connections::backfill_runs::save }
    "/connections/{id}/resources"                    { POST => connections::link_resource::link }
    "/connections/{id}/resources/{resource}"         { DELETE => connections::unlink_resource::unlink }
    "/connections/{id}/log"                          { GET => connections::log::list }
    "/connections/{id}/reroute"                      { POST => connections::reroute::reroute }
    "/connections/{id}/release-held"                 { POST => connections::release_held::release }

    "/orgs"                                          { GET => orgs::list }
    "/workspaces"                                    { GET => workspaces::list }
    "/workspaces/{id}/integrations"                  { GET => integrations::list, POST => integrations::create }
    "/integrations/{id}"                             { GET => integrations::get, PATCH => integrations::patch, DELETE => integrations::end }

    "/destinations"                                  { GET => destinations::list }
    "/integrations/{id}/destination"                 { PUT => destinations::put_of_integration, GET => destinations::get_of_integration, DELETE => destinations::delete_of_integration }
    "/integrations/{id}/destination/rotate-secret"   { POST => destinations::rotate_of_integration }
    "/integrations/{id}/destination/test"            { POST => destinations::test_of_integration }
    "/workspaces/{id}/destination"                   { PUT => destinations::put_of_workspace, GET => destinations::get_of_workspace, DELETE => destinations::delete_of_workspace }
    "/workspaces/{id}/destination/rotate-secret"     { POST => destinations::rotate_of_workspace }
    "/workspaces/{id}/destination/test"              { POST => destinations::test_of_workspace }
    "/orgs/{id}/destination"                         { PUT => destinations::put_of_org, GET => destinations::get_of_org, DELETE => destinations::delete_of_org }
    "/orgs/{id}/destination/rotate-secret"           { POST => destinations::rotate_of_org }
    "/orgs/{id}/destination/test"                    { POST => destinations::test_of_org }

    "/events"                                        { GET => events::list }
    "/events/stream"                                 { GET => stream::follow }
    "/events/{id}"                                   { GET => events::get }
    "/events/{id}/payload"                           { GET => events::payload }
    "/events/{id}/explain"                           { GET => explain::explain }
    "/events/{id}/replay"                            { POST => events::replay }
    "/deliveries"                                    { GET => deliveries::list }
    "/deliveries/count"                              { GET => deliveries::count }
    "/deliveries/retry"                              { POST => deliveries::retry_many }
    "/deliveries/{id}"                               { GET => deliveries::get }
    "/deliveries/{id}/retry"                         { POST => deliveries::retry }
    "/activity"                                      { GET => activity::show }

    "/admin/connections"                             { POST => connections::adopt::adopt }
    "/admin/dlq"                                     { GET => dlq::list }
    "/admin/dlq/replay"                              { POST => dlq::replay }
    "/admin/replay/catchup"                          { POST => dlq::catch_up }
    "/admin/quarantine"                              { GET => quarantine::list }
    "/admin/quarantine/reverify"                     { POST => quarantine::reverify }
    "/admin/quarantine/{id}"                         { GET => quarantine::get, DELETE => quarantine::delete }
    "/admin/quarantine/{id}/reverify"                { POST => quarantine::reverify_one }
    "/admin/keys"                                    { GET => keys::list, POST => keys::create }
    "/admin/keys/{id}"                               { DELETE => keys::revoke }
    "/admin/settings"                                { GET => settings::show }
    "/admin/doctor"                                  { GET => doctor::examine }
    "/admin/health"                                  { GET => admin::health }
    "/admin/health/providers"                        { GET => admin::provider_health }
    "/admin/cache/rebuild"                           { POST => admin::rebuild_cache }
    "/admin/actors"                                  { GET => admin::actors }
    "/admin/audit"                                   { GET => admin::audit }
    "/admin/heal"                                    { GET => heal::list, POST => heal::heal }

    // The last of all: it has the shape of every `/connections/{id}/{something}`, and the first that fits is taken.
    "/connections/{provider}/{id}"                   { DELETE => connections::delete::delete_of_provider }
}

async fn no_such_route() -> Answer {
    Err(Problem::new(&error_codes::NOT_FOUND))
}

fn refuse_method(allowed: &[&str]) -> HttpResponse {
    // Left empty: the frame writes the problem.
    HttpResponse::MethodNotAllowed().insert_header(("allow", allowed.join(", "))).finish()
}
