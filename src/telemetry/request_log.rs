//! One structured line for each HTTP request.
//!
//! **Invariants**: the route's pattern is logged, never the path or query as sent (they may hold states and ids of other
//! people); no header, no body.

use std::time::Duration;

/// What is said of a request. Absent members are left out of the line.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestLine<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// The route's pattern, `/webhooks/{provider}`; `unmatched` for none.
    pub route: &'a str,
    /// The answer's HTTP status.
    pub status: u16,
    /// From the request's first byte to the answer's head.
    pub took: Duration,
    /// Echoed as `X-Request-Id`.
    pub request_id: &'a str,
    /// Stored with the event and sent on.
    pub correlation_id: Option<&'a str>,
    /// The code of the problem document.
    pub error_code: Option<&'a str>,
    /// The provider of a webhook.
    pub provider: Option<&'a str>,
    /// The event it became.
    pub event_id: Option<&'a str>,
    /// The provider's id of it.
    pub provider_delivery_id: Option<&'a str>,
    /// What became of it.
    pub outcome: Option<&'a str>,
    /// The API key's id; never the key.
    pub key_id: Option<&'a str>,
    /// The org acted for.
    pub org_id: Option<&'a str>,
    /// Bytes of the request's body.
    pub body_bytes: Option<usize>,
}

impl RequestLine<'_> {
    /// Whether anybody wants the line; who would have to gather its parts first may ask.
    pub fn is_wanted() -> bool {
        tracing::enabled!(target: "signalbox::request", tracing::Level::INFO)
    }

    /// Writes the line. It is information whatever the status: what went wrong is logged where it went wrong.
    pub fn log(&self) {
        // Microseconds are precise enough, and keep the number short.
        let duration_ms = (self.took.as_secs_f64() * 1_000_000.0).round() / 1000.0;
        tracing::event!(
            target: "signalbox::request",
            tracing::Level::INFO,
            http.method = self.method,
            http.route = self.route,
            http.status = self.status,
            duration_ms,
            request.id = self.request_id,
            correlation.id = self.correlation_id,
            error.code = self.error_code,
            provider = self.provider,
            provider.delivery_id = self.provider_delivery_id,
            event.id = self.event_id,
            outcome = self.outcome,
            key.id = self.key_id,
            org.id = self.org_id,
            body_bytes = self.body_bytes,
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_request_is_one_line_with_the_members_it_has() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber =
            tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let line = RequestLine {
                method: "POST",
                route: "/webhooks/{provider}",
                status: 503,
                took: Duration::from_micros(1500),
                request_id: "req-1",
                error_code: Some("store_unavailable"),
                ..RequestLine::default()
            };
            line.log();
        });
        let text = String::from_utf8(written.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["http.status"], 503);
        assert_eq!(line["duration_ms"], 1.5);
        assert_eq!(line["error.code"], "store_unavailable");
        assert!(line.get("event.id").is_none());
    }
}
