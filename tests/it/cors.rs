//! Pages of other origins that call the API.

use bytes::Bytes;
use signalbox::sim::client::Answer;

use crate::support::{App, Backend, Options};

const CONSOLE: &str = "https://console.example.com:8443";
const OTHER: &str = "http://localhost:5173";

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name)
}

/// What the answer says to pages: the origin it is for, what may be read, and whether it depends on the origin.
fn said(answer: &Answer) -> (Option<&str>, Option<&str>, Option<&str>) {
    assert_eq!(header(answer, "access-control-allow-credentials"), None, "cookies never come along");
    let names = ["access-control-allow-origin", "access-control-expose-headers", "vary"];
    let [origin, exposed, vary] = names.map(|name| header(answer, name));
    (origin, exposed, vary)
}

async fn app() -> App {
    let options = Options::default()
        .with("SIGNALBOX_CONSOLE__URL", &format!("{CONSOLE}/some/where"))
        .with("SIGNALBOX_CONSOLE__ALLOWED_ORIGINS", OTHER);
    App::start(Backend::sqlite(), options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_allowed_origin_may_call_the_api_and_read_its_errors() {
    let app = app().await;
    let exposed = Some("X-Request-Id, Retry-After");
    for origin in [CONSOLE, OTHER] {
        for (method, path, headers, status) in [
            ("GET", "/connections", &[("x-api-key", App::service_key()), ("x-org-id", "acme")][..], 200),
            ("GET", "/connections", &[], 401),
            ("GET", "/no/such/route", &[], 404),
            ("GET", "/connections/in_%00", &[], 404),
            ("PUT", "/connections", &[], 405),
            ("OPTIONS", "/connections", &[], 405),
            ("GET", "/openapi.json", &[], 200),
        ] {
            let answer = app.send(method, path, &[headers, &[("origin", origin)]].concat(), Bytes::new()).await;
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(said(&answer), (Some(origin), exposed, Some("Origin")), "{method} {path}");
        }
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_is_answered_for_every_route_without_a_key() {
    let app = app().await;
    for path in ["/connections", "/integrations/int_1", "/orgs/acme/destination", "/events/evt_1/replay"] {
        let headers = [
            ("origin", OTHER),
            ("access-control-request-method", "PATCH"),
            ("access-control-request-headers", "content-type,x-api-key,x-org-id"),
        ];
        let answer = app.send("OPTIONS", path, &headers, Bytes::new()).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{path}");
        assert_eq!(said(&answer), (Some(OTHER), None, Some("Origin")));
        assert!(header(&answer, "x-request-id").is_some(), "it goes through the frame");
        let methods = header(&answer, "access-control-allow-methods").expect("methods");
        let allowed = header(&answer, "access-control-allow-headers").expect("headers").to_lowercase();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            assert!(methods.split(", ").any(|one| one == method), "{method}: {methods}");
        }
        for name in ["x-api-key", "authorization", "x-org-id", "x-user-id", "content-type", "last-event-id"] {
            assert!(allowed.split(", ").any(|one| one == name), "{name}: {allowed}");
        }
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_other_origin_is_told_nothing_and_what_is_not_the_api_is_left_alone() {
    let app = app().await;
    let preflight = ("access-control-request-method", "GET");
    for origin in [
        "https://console.example.com",
        "http://console.example.com:8443",
        "https://console.example.com:8443.evil.example",
        "https://CONSOLE.example.com:8443",
        "https://console.example.com:8443/",
        "https://evil.example",
        "http://localhost",
        "null",
        "",
    ] {
        for (method, headers, status) in
            [("GET", &[("origin", origin)][..], 200), ("OPTIONS", &[("origin", origin), preflight], 405)]
        {
            let answer = app.send(method, "/openapi.json", headers, Bytes::new()).await;
            assert_eq!(answer.status, status, "{origin}");
            assert_eq!(said(&answer), (None, None, Some("Origin")), "{origin}");
            assert_eq!(header(&answer, "access-control-allow-methods"), None, "{origin}");
        }
    }
    let twice = app.send("GET", "/openapi.json", &[("origin", OTHER), ("origin", CONSOLE)], Bytes::new()).await;
    assert_eq!(said(&twice), (None, None, Some("Origin")));
    for path in
        ["/webhooks/github", "/console", "/console/events", "/connect/github/x", "/assets/connected.js", "/metrics"]
    {
        for headers in [&[("origin", OTHER)][..], &[("origin", OTHER), preflight]] {
            let method = if headers.len() == 2 { "OPTIONS" } else { "GET" };
            let answer = app.send(method, path, headers, Bytes::new()).await;
            let (origin, exposed, _) = said(&answer);
            assert_eq!((origin, exposed), (None, None), "{method} {path}");
            assert_eq!(header(&answer, "access-control-allow-methods"), None, "{method} {path}");
        }
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_configured_origins_nothing_is_said_of_them() {
    let app = App::start(Backend::sqlite(), Options::default()).await;
    let answer = app.send("GET", "/openapi.json", &[("origin", OTHER)], Bytes::new()).await;
    assert_eq!(said(&answer), (None, None, None));
    app.finish().await;
}
