//! The words every operation shares: tags, parts of paths, headers, members of problems, codes that follow from a signature.
//!
//! **Must not know** any single handler.

use serde_json::{Value, json};

use super::{super::error_codes as codes, arguments::Needs};
use crate::routes::error_codes::Code;

/// The rooms of the API: a handler's first module, what its tag says.
pub const TAGS: &[(&str, &str)] = &[
    ("health", "For load balancers and scrapers: open to everybody."),
    ("openapi", "This document."),
    ("webhooks", "Where providers, and trusted writers with a service key, post."),
    ("providers", "Which providers there are and which events they can send."),
    ("connections", "An org's installations at providers, and the resources linked to them."),
    ("connecting", "How a person connects an installation: OAuth in a browser."),
    ("orgs", "Which orgs there are."),
    ("workspaces", "Which workspaces of an org the gateway has heard of."),
    ("integrations", "A workspace's subscriptions to resources."),
    ("destinations", "Where envelopes are sent."),
    ("events", "Verified, stored webhooks; what became of them."),
    ("explain", "Why an event went where it went."),
    ("stream", "Events as they come."),
    ("deliveries", "Events on their way to integrations."),
    ("activity", "What came and what became of it, for charts."),
    ("dlq", "Dead letters, and sending them again."),
    ("heal", "Comparing a provider's delivery log with what was received."),
    ("quarantine", "Webhooks that could not be verified."),
    ("keys", "API keys."),
    ("settings", "The configuration as it is in force."),
    ("doctor", "Whether the gateway is well configured."),
    ("admin", "For operators with a service key."),
];

/// What stands at a `{…}` of a path; the path up to there names it.
pub const PATH_PARAMETERS: &[(&str, &str)] = &[
    ("/webhooks/{provider}", "A provider's slug."),
    ("/connections/{provider}", "A provider's slug."),
    ("/connections/{provider}/{id}", "The connection's id, `in_…`."),
    ("/connect/{provider}", "A provider's slug."),
    ("/connect/{provider}/{state}", "What names the flow; nobody needs to make this address."),
    ("/connections/{id}", "The connection's id, `in_…`."),
    ("/connections/{id}/resources/{resource}", "The resource's id, `res_…`."),
    ("/workspaces/{id}", "The workspace's id, an opaque text of the caller's."),
    ("/orgs/{id}", "The org's id."),
    ("/integrations/{id}", "The integration's id, `int_…`."),
    ("/events/{id}", "The event's id, `evt_…`."),
    ("/deliveries/{id}", "The delivery's id, `dlv_…`."),
    ("/admin/quarantine/{id}", "The quarantined webhook's id, `qtn_…`."),
    ("/admin/keys/{id}", "The key's id, `key_…`."),
];

/// Members of problems beside the usual ones: their schemas.
pub fn problem_member(name: &str) -> Option<Value> {
    Some(match name {
        "fields" | "headers" | "keys" | "parameters" => json!({"type": "array", "items": {"type": "string"}}),
        "requestedIds" => json!({"type": "array", "items": {"type": "object"}}),
        "maxBytes" => json!({"type": "integer"}),
        "parameter" | "provider" | "providerResourceId" | "resourceId" | "deliveryStatus" | "connectionStatus"
        | "reason" | "setting" | "path" | "endpointId" | "from" | "to" => json!({"type": "string"}),
        _ => return None,
    })
}

/// Headers that may be sent with every request, and with every request that has a key.
pub fn header_parameters() -> Value {
    let header = |name: &str, pattern: &str, description: &str| {
        json!({
            "name": name, "in": "header", "required": false, "description": description,
            "schema": {"type": "string", "pattern": pattern},
        })
    };
    json!({
        "OrgId": header("X-Org-Id", "^[a-zA-Z0-9_-]{1,191}$",
            "The org acted for. A service key names it; an org key is bound to one and may repeat it."),
        "UserId": header("X-User-Id", "^[!-~]{1,191}$", "The person acted for, for the log."),
        "RequestId": header("X-Request-Id", "^[!-~]{1,128}$", "Names this request; echoed, made up if absent."),
        "CorrelationId": header("X-Correlation-Id", "^[!-~]{1,128}$",
            "Names what several requests belong to; stored with events and sent to destinations."),
    })
}

/// The two ways to present a key.
pub fn security_schemes() -> Value {
    let kinds = "A service key acts for any org, named by `X-Org-Id`; an org key is bound to one. A key has the scope \
                 `read` or `write`. The roles an operation lists say what it asks for: `service` (no org key will do), \
                 `read` or `write`.";
    json!({
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": kinds},
        "bearer": {"type": "http", "scheme": "bearer", "description": kinds},
    })
}

/// Codes that no operation names, because no handler gives them: only `components` lists them.
pub const BESIDE_OPERATIONS: &[&Code] = &[&codes::METHOD_NOT_ALLOWED];

/// Codes that follow from a signature.
pub fn implied_codes(needs: &Needs) -> Vec<&'static Code> {
    let mut implied = vec![&codes::BAD_REQUEST, &codes::INVALID_PARAMETER, &codes::INTERNAL_ERROR];
    if needs.path > 0 {
        implied.push(&codes::NOT_FOUND);
    }
    if let Some(key) = needs.key {
        implied.extend([
            &codes::UNAUTHORIZED,
            &codes::INVALID_ORG_ID,
            &codes::INVALID_USER_ID,
            &codes::FORBIDDEN,
            &codes::STORE_UNAVAILABLE,
            &codes::TEMPORARILY_UNAVAILABLE,
        ]);
        if key.write {
            implied.extend([&codes::INSUFFICIENT_SCOPE, &codes::ALREADY_EXISTS]);
        }
        if key.service {
            implied.push(&codes::SERVICE_KEY_REQUIRED);
        }
    }
    if needs.body {
        implied.extend([
            &codes::PAYLOAD_TOO_LARGE,
            &codes::UNSUPPORTED_CONTENT_ENCODING,
            &codes::REQUEST_TIMEOUT,
            &codes::INCOMPLETE_BODY,
        ]);
    }
    implied
}
