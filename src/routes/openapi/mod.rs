//! `GET /openapi.json`: every route, its parameters, its bodies and its errors, from the code. `docs/openapi.json` is the
//! same text, checked in.
//!
//! What a handler takes and answers is said in one attribute above it (`#[utoipa::path(…)]`, shapes in `schemas`); which
//! errors, in the `# Errors` of its documentation; everything else is read off the URL table and the handler's signature
//! (see `CONTRIBUTING.md`). **Owns** the document. **Invariants**: a route without an annotation, an annotation without a
//! route, an unknown code, a body or query that the signature does not read: each is a complaint of [`complaints`], which
//! a test wants empty. **Must not know** any single route.

pub mod arguments;
mod completion;
mod vocabulary;

use std::sync::LazyLock;

use actix_web::{Handler, HttpResponse};
use serde_json::{Map, Value, json};
use utoipa::OpenApi as _;

use self::{
    arguments::{Arguments, Needs},
    completion::{complete, problem_schemas, schema_name},
    vocabulary::{BESIDE_OPERATIONS, TAGS, header_parameters, security_schemes},
};
use super::error_codes::ALL as ALL_CODES;

/// A row of the URL table.
#[derive(Debug, Clone)]
pub struct Operation {
    /// `GET`.
    pub method: &'static str,
    /// `/connections/{id}`, without the patterns the table may have there.
    pub path: String,
    /// `connections::get::get`.
    handler: String,
    /// What the handler's signature says.
    pub needs: Needs,
}

impl Operation {
    /// The operation behind a row of the table.
    pub fn of<F, Args>(method: &'static str, path: &str, name: &str, _handler: F) -> Self
    where
        F: Handler<Args>,
        Args: Arguments,
    {
        let handler = name.chars().filter(|letter| !letter.is_whitespace()).collect();
        Self { method, path: without_patterns(path), handler, needs: Args::needs() }
    }

    /// Its first module.
    fn room(&self) -> &str {
        self.handler.split("::").next().unwrap_or_default()
    }

    /// `connections_get`.
    fn id(&self) -> String {
        let mut words: Vec<_> = self.handler.split("::").collect();
        words.dedup();
        if self.method == "HEAD" {
            words.push("head");
        }
        words.join("_")
    }
}

/// `/a/{id:in_.*}` is `/a/{id}`.
fn without_patterns(path: &str) -> String {
    let parts = path.split('/').map(|part| match part.split_once(':') {
        Some((name, _)) if name.starts_with('{') => format!("{name}}}"),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}

/// The document, and what does not fit together in it.
struct Document {
    text: String,
    complaints: Vec<String>,
}

static DOCUMENT: LazyLock<Document> = LazyLock::new(build);

/// The text of `docs/openapi.json` and of the answer.
pub fn document() -> &'static str {
    &DOCUMENT.text
}

/// Everything in which table, signatures, annotations and codes disagree.
pub fn complaints() -> &'static [String] {
    &DOCUMENT.complaints
}

fn build() -> Document {
    let mut complaints = Vec::new();
    let operations = super::operations();
    let mut document = match serde_json::to_value(super::Annotations::openapi()) {
        Ok(document) => document,
        Err(error) => {
            complaints.push(error.to_string());
            json!({})
        }
    };
    let mut annotated = match document["paths"].take() {
        Value::Object(paths) => paths,
        _ => Map::new(),
    };
    let mut paths = json!({});
    for operation in &operations {
        let method = operation.method.to_lowercase();
        let own =
            annotated.get_mut(&operation.path).and_then(Value::as_object_mut).and_then(|item| item.remove(&method));
        if own.is_none() {
            complaints.push(format!("{} {} is not annotated", operation.method, operation.path));
        }
        paths[&operation.path][&method] = complete(operation, own.unwrap_or_default(), &mut complaints);
    }
    for (path, item) in &annotated {
        for method in item.as_object().into_iter().flat_map(Map::keys) {
            complaints.push(format!("{method} {path} is annotated and not in the URL table"));
        }
    }
    document["paths"] = paths;
    document["openapi"] = json!("3.1.0");
    document["info"] = json!({
        "title": "Signalbox",
        "version": env!("CARGO_PKG_VERSION"),
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        "description": "A self-hosted webhook gateway: verifies, stores, routes and delivers provider webhooks.\n\n\
            Errors are `application/problem+json` with at least `error` (the code), `title`, `status` and `requestId`. A \
            method that a path does not take is answered 405 `method_not_allowed` with `Allow`, an unknown path 404 \
            `not_found`. Every 503 has a `Retry-After`; every answer has `X-Request-Id` and `X-Correlation-Id`. Another \
            org's id is answered like one that does not exist. Clients must expect members they do not know.",
    });
    document["tags"] = tags(&operations, &mut complaints);
    document["components"]["parameters"] = header_parameters();
    document["components"]["securitySchemes"] = security_schemes();
    document["components"]["responses"] = beside_operations();
    for (name, schema) in problem_schemas(&mut complaints) {
        document["components"]["schemas"][name] = schema;
    }
    check_codes(&document, &mut complaints);
    let text = serde_json::to_string_pretty(&document).map(|text| text + "\n").unwrap_or_default();
    Document { text, complaints }
}

fn tags(operations: &[Operation], complaints: &mut Vec<String>) -> Value {
    for operation in operations {
        if !TAGS.iter().any(|(room, _)| *room == operation.room()) {
            complaints.push(format!("`{}` is not in the table of tags", operation.room()));
        }
    }
    let used = TAGS.iter().filter(|(room, _)| operations.iter().any(|operation| operation.room() == *room));
    used.map(|(room, description)| json!({"name": room, "description": description})).collect()
}

fn beside_operations() -> Value {
    let responses = BESIDE_OPERATIONS.iter().map(|code| {
        let reference = format!("#/components/schemas/{}", schema_name(code));
        let content = json!({"application/problem+json": {"schema": {"$ref": reference}}});
        (code.code.to_owned(), json!({"description": code.meaning, "content": content}))
    });
    Value::Object(responses.collect())
}

/// Each code is some operation's.
fn check_codes(document: &Value, complaints: &mut Vec<String>) {
    let paths = document["paths"].to_string();
    for code in ALL_CODES {
        let is_named = paths.contains(&format!("\"#/components/schemas/{}\"", schema_name(code)));
        let is_beside = BESIDE_OPERATIONS.contains(code);
        if is_named == is_beside {
            complaints.push(format!("`{}` is an error of no operation", code.code));
        }
    }
}

/// `GET /openapi.json`: the OpenAPI 3.1 document.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, body = serde_json::Value)))]
pub async fn serve() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(document())
}
