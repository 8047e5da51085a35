//! Every error code an answer can carry: its status, its title, what it means. `docs/errors.md` is made from this table.
//!
//! **Invariants**: a code is unique, has one status, and once released keeps its meaning. **Must not know** how an
//! error came about: that is `problem`'s work.

use std::fmt::Write;

/// One error code.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// The `error` member, in `snake_case`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The `title` member.
    pub title: &'static str,
    /// What it means and what to do about it, for `docs/errors.md`.
    pub meaning: &'static str,
    /// Members beside the usual four.
    pub members: &'static [&'static str],
}

macro_rules! codes {
    ($($name:ident = $code:literal, $status:literal, $title:literal, [$($member:literal),*], $meaning:literal;)*) => {
        $(
            #[doc = concat!("`", $code, "`: ", $meaning)]
            pub static $name: Code = Code {
                code: $code,
                status: $status,
                title: $title,
                meaning: $meaning,
                members: &[$($member),*],
            };
        )*

        /// The table, ordered by status.
        pub static ALL: &[&Code] = &[$(&$name),*];
    };
}

codes! {
    BAD_REQUEST = "bad_request", 400, "The request is malformed", [],
        "The request could not be understood at the level of HTTP.";
    INVALID_JSON = "invalid_json", 400, "The body is not a JSON object", [],
        "The body is not well-formed JSON, or not an object.";
    MISSING_REQUIRED_FIELDS = "missing_required_fields", 400, "Required fields are missing or have the wrong type", ["fields"],
        "Members of the body that are required are absent, empty or of the wrong type; `fields` names them.";
    INVALID_FIELDS = "invalid_fields", 400, "Fields have the wrong type", ["fields"],
        "Optional members of the body are of the wrong type or out of range; `fields` names them.";
    INVALID_PARAMETER = "invalid_parameter", 400, "A query parameter is invalid", ["parameter"],
        "The query parameter named by `parameter` cannot be read. What cannot be read in `limit` and `offset` is the default instead.";
    MISSING_ORG_ID = "missing_org_id", 400, "X-Org-Id is missing", [],
        "A service key acts for an org, and this operation needs to know which: send `X-Org-Id`.";
    INVALID_ORG_ID = "invalid_org_id", 400, "The org id is invalid", [],
        "An org id is 1 to 191 letters, digits, `_` or `-`.";
    INVALID_USER_ID = "invalid_user_id", 400, "X-User-Id is invalid", [],
        "A user id is 1 to 191 visible ASCII characters.";
    INVALID_WORKSPACE_ID = "invalid_workspace_id", 400, "The workspace id is invalid", [],
        "A workspace id is 1 to 191 bytes without control characters.";
    UNKNOWN_PROVIDER = "unknown_provider", 400, "The provider is unknown or disabled", ["provider"],
        "No provider of that name is enabled; `GET /providers` lists them.";
    CONNECTING_NOT_CONFIGURED = "connecting_not_configured", 400, "The provider cannot be connected", ["provider", "setting"],
        "The provider is enabled and its webhooks are received, but a setting that its API needs is missing or unusable; `setting` or `detail` names it.";
    INVALID_REDIRECT_TO = "invalid_redirect_to", 400, "redirect_to is refused", [],
        "`redirect_to` may be `inline`, an address with the console's origin, or one of `http://localhost` with any port.";
    INVALID_OR_EXPIRED_STATE = "invalid_or_expired_state", 400, "The state is not valid", [],
        "The state of this connection attempt is missing, unknown, used, older than ten minutes, of another provider, or brought by another browser than the one that began. Begin again in the console.";
    MISSING_STATE = "missing_state", 400, "state is missing", [],
        "The query parameter `state` names the connection attempt that is asked about.";
    INVALID_PAYLOAD = "invalid_payload", 400, "The payload is not a JSON object", [],
        "The webhook is correctly signed, but its body (or the `payload` field of its form) is not a JSON object in UTF-8.";
    MISSING_REQUIRED_HEADERS = "missing_required_headers", 400, "A header the provider always sends is missing", ["headers"],
        "The webhook is correctly signed, but lacks the headers named by `headers`.";
    UNKNOWN_EVENT_KEY = "unknown_event_key", 400, "Event keys are unknown", ["keys"],
        "`events` may hold event keys and category keys of the connection's provider; `keys` names those that are neither.";
    MISSING_PROVIDER_RESOURCE_ID = "missing_provider_resource_id", 400, "providerResourceId is missing", [],
        "Linking needs the resource's id at the provider, as text or as an integer.";
    INVALID_RESOURCES = "invalid_resources", 400, "resources must hold 1 to 50 entries", [],
        "A request subscribes to at least one and at most fifty resources.";
    INSTALLATION_NOT_ACTIVE = "installation_not_active", 400, "The connection is not active", ["connectionStatus"],
        "The connection is pending, suspended or revoked; `connectionStatus` says which.";
    ALREADY_REMOVED = "already_removed", 400, "The resource was removed already", [],
        "The resource is not linked any more. Linking it again revives it.";
    MISSING_DELIVERY_IDS = "missing_delivery_ids", 400, "deliveryIds is missing", [],
        "`deliveryIds` must hold at least one `{\"provider\", \"deliveryId\"}`.";
    INVALID_DESTINATION_URL = "invalid_destination_url", 400, "The destination's URL is refused", [],
        "The URL is not an absolute http(s) URL of at most 2048 bytes, or names an address that deliveries are not sent to.";
    INVALID_DESTINATION_HEADER = "invalid_destination_header", 400, "A header of the destination is refused", [],
        "`headers` must map header names to text; names that the gateway sets itself (`host`, `content-length`, `webhook-*`, …) and values with line breaks are refused.";
    NOT_SUPPORTED = "not_supported", 400, "The provider has nothing of the kind", ["provider"],
        "The operation makes no sense for this provider: a config file where there are no repositories, healing where there is no delivery log.";
    CONFIG_TOO_LARGE = "config_too_large", 400, "The config file is too large", ["path", "maxBytes"],
        "The file at `path` is larger than `maxBytes`.";
    INVALID_CONFIG = "invalid_config", 400, "The config file is not YAML", ["path"],
        "The file at `path` is not well-formed YAML in UTF-8.";
    UNKNOWN_ENDPOINT = "unknown_endpoint", 400, "The proxy has no such endpoint", ["endpointId"],
        "`endpointId` names none of what `GET /connections/{id}/proxy/endpoints` lists.";
    MISSING_PATH_PARAMETERS = "missing_path_parameters", 400, "Path parameters are missing", ["parameters"],
        "The endpoint's path has parameters that `pathParams` does not give; `parameters` names them.";
    UNKNOWN_PATH_PARAMETERS = "unknown_path_parameters", 400, "Path parameters are unknown", ["parameters"],
        "`pathParams` gives parameters that the endpoint's path does not have; `parameters` names them.";
    INCOMPLETE_BODY = "incomplete_body", 400, "The body ended early", [],
        "The connection ended before the announced body was complete. Nothing was stored.";
    UNAUTHORIZED = "unauthorized", 401, "No valid API key", [],
        "No API key, or one that is unknown or revoked. Send it as `X-API-Key` or `Authorization: Bearer`.";
    INVALID_SIGNATURE = "invalid_signature", 401, "The signature is missing or wrong", [],
        "No live webhook secret of the provider made this signature. The webhook is kept in quarantine, within its bounds, until it can be verified.";
    STALE_TIMESTAMP = "stale_timestamp", 401, "The signed time is outside its window", [],
        "The provider's signed timestamp is too far from the present; check the clock.";
    TOKEN_EXPIRED = "token_expired", 401, "The grant is dead", [],
        "The provider does not renew the connection's token any more; the connection is `needs_reauth`. Connect it again. Where tokens are made from the installation (GitHub), an installation that is gone is `installation_not_active` instead.";
    CONNECTION_EXPIRED = "connection_expired", 401, "The provider does not accept the connection's token", [],
        "A token that was renewed for the purpose was not accepted either; the connection is `needs_reauth`. Connect it again.";
    FORBIDDEN = "forbidden", 403, "Not allowed for this org", [],
        "The key, or the connection named, belongs to another org.";
    INSUFFICIENT_SCOPE = "insufficient_scope", 403, "The key may only read", [],
        "The operation changes something and the key's scope is `read`.";
    CROSS_ORIGIN_REQUEST = "cross_origin_request", 403, "The request comes from another site", [],
        "A session of the console changes something only for a page of the gateway's own origin: that of `server.public_url`, or of the host it was asked at. Requests with a key are not bound to an origin.";
    SERVICE_KEY_REQUIRED = "service_key_required", 403, "A service key is required", [],
        "The operation is not open to keys that are bound to an org.";
    NOT_FOUND = "not_found", 404, "Not found", [],
        "There is no such route, or no such thing among those this key may see.";
    NO_TOKEN_FOUND = "no_token_found", 404, "The connection has no token", [],
        "No token is kept for the connection: it was adopted, and never connected through the provider. Connect it. Where tokens are made from the installation (GitHub), there is none to be kept, and this is not answered.";
    RESOURCE_NOT_ACCESSIBLE = "resource_not_accessible", 404, "The provider does not list this resource for the connection", ["providerResourceId"],
        "An org key may link only what the provider lists for the connection; for a connection without a token, only a service key may link. Elsewhere: the connection does not reach what the request names.";
    NO_MATCHING_DLQ_ENTRIES = "no_matching_dlq_entries", 404, "No dead letter matches", ["requestedIds"],
        "None of the deliveries asked for is dead.";
    METHOD_NOT_ALLOWED = "method_not_allowed", 405, "The method is not allowed here", [],
        "The route exists; the `Allow` header says which methods it takes.";
    REQUEST_TIMEOUT = "request_timeout", 408, "The body did not arrive in time", [],
        "The body paused for too long or took too long in all. Nothing was stored.";
    INSTALLATION_ALREADY_BOUND = "installation_already_bound", 409, "Another org has connected this installation", [],
        "One installation at a provider belongs to one org until it is revoked.";
    RESOURCE_ALREADY_LINKED = "resource_already_linked", 409, "The resource is linked already", ["resourceId"],
        "`resourceId` names the resource that is linked.";
    DELIVERY_NOT_RETRYABLE = "delivery_not_retryable", 409, "The delivery cannot be retried", ["deliveryStatus"],
        "It was delivered, or an attempt of it is in flight: to send a delivered event again, replay the event. Or it is held: release the connection's held events, or replay this one.";
    INVALID_BACKFILL_TRANSITION = "invalid_backfill_transition", 409, "The run cannot go from its status to that one", ["from", "to"],
        "A run goes from `pending` to `running` to `completed`, `failed` or `cancelled`, and does not come back from these.";
    HEAL_ALREADY_RUNNING = "heal_already_running", 409, "The provider's log is being compared already", [],
        "One comparison of a provider's delivery log runs at a time; `GET /admin/heal` shows it.";
    OWN_KEY = "own_key", 409, "The key would revoke itself", [],
        "The request is made with the key that it would revoke, or in a session of it. Make another key first, or insist with `?force=true`.";
    ALREADY_EXISTS = "already_exists", 409, "It exists already", [],
        "Something with the same key exists.";
    PAYLOAD_TOO_LARGE = "payload_too_large", 413, "The body is too large", ["maxBytes"],
        "The body is larger than `maxBytes`. Nothing past the limit was read.";
    UNSUPPORTED_CONTENT_ENCODING = "unsupported_content_encoding", 415, "Compressed bodies are not accepted", [],
        "Nothing is inflated before it is verified: send the body without `Content-Encoding`.";
    TOO_MANY_STREAMS = "too_many_streams", 429, "Too many event streams are open", [],
        "One key follows at the most 100 event streams of a node at a time, and all keys together 1000. End one, or try again.";
    INTERNAL_ERROR = "internal_error", 500, "Something failed inside the gateway", [],
        "The log has the detail under the same request id.";
    UPSTREAM_FAILED = "upstream_failed", 502, "The provider could not be asked", [],
        "The provider answered something that makes no sense, or the gateway is not configured to ask it.";
    TOKEN_GENERATION_FAILED = "token_generation_failed", 502, "The provider gave no token", [],
        "The provider could not be asked for a token now, and none that still lives is at hand. The connection is as it was; try again.";
    PROVIDER_UNAVAILABLE = "provider_unavailable", 502, "The provider cannot be asked now", [],
        "The provider is unreachable, limits its rate or answers with errors. The connection is as it was; try again.";
    TEMPORARILY_UNAVAILABLE = "temporarily_unavailable", 503, "Busy, try again", [],
        "The gateway is at the limit of what it handles at once, or is stopping. Nothing was promised; try again after `Retry-After` seconds.";
    STORE_UNAVAILABLE = "store_unavailable", 503, "The database is unavailable, try again", [],
        "The database could not commit or answer in time. Nothing was promised; try again after `Retry-After` seconds.";
    NOT_READY = "not_ready", 503, "Not ready", ["reason"],
        "`/readyz` only: `reason` is `draining`, `store_unreachable` or `migrations_pending`.";
}

/// The code of that word.
pub fn find(code: &str) -> Option<&'static Code> {
    ALL.iter().copied().find(|entry| entry.code == code)
}

/// The text of `docs/errors.md`.
pub fn errors_page() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         <!-- Made from src/routes/error_codes.rs by `cargo test --test errors_doc -- --ignored`; do not edit. -->\n\n\
         An error is answered as `application/problem+json` with at least `error` (the code), `title`, `status` and\n\
         `requestId`. Some codes carry further members. The `error` member is stable; titles may be reworded. A 5xx body\n\
         never shows internal detail: the log has it, under the request id. Every 503 has a `Retry-After`.\n\n\
         | status | code | members | meaning |\n\
         |---|---|---|---|\n",
    );
    for entry in ALL {
        let members = entry.members.iter().map(|member| format!("`{member}`")).collect::<Vec<_>>().join(", ");
        // Writing to a String cannot fail.
        if writeln!(page, "| {} | `{}` | {members} | {} |", entry.status, entry.code, entry.meaning).is_err() {
            break;
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_snake_case_and_ordered_by_status() {
        let unique: BTreeSet<_> = ALL.iter().map(|entry| entry.code).collect();
        assert_eq!(unique.len(), ALL.len());
        for entry in ALL {
            assert!(entry.code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", entry.code);
            assert!((400..600).contains(&entry.status), "{}", entry.code);
            assert!(!entry.title.ends_with('.') && entry.meaning.ends_with('.'), "{}", entry.code);
        }
        assert!(ALL.is_sorted_by_key(|entry| entry.status));
    }
}
