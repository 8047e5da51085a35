//! Completes an annotated operation with what need not be said by hand: from the URL table, from the handler's signature,
//! and from the `# Errors` of its documentation.
//!
//! **Invariants**: what does not fit together is a complaint, and a complaint fails the tests; nothing here panics.
//! **Must not know** any single route.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    super::error_codes::{self as codes, Code},
    Operation,
    arguments::{KeyNeed, Needs},
    vocabulary::{PATH_PARAMETERS, implied_codes, problem_member},
};

/// The operation as the document shows it, and what does not fit together.
pub fn complete(operation: &Operation, annotated: Value, complaints: &mut Vec<String>) -> Value {
    let mut shown = match annotated {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let mut complain = |what: String| complaints.push(format!("{} {}: {what}", operation.method, operation.path));

    let mut text = Text::read(&shown, &mut complain);
    // Some handlers ask for a service key by themselves.
    let mut needs = operation.needs;
    if let Some(key) = &mut needs.key {
        key.service |= text.codes.contains(codes::SERVICE_KEY_REQUIRED.code);
    }
    if text.codes.contains(codes::PROVIDER_UNAVAILABLE.code) || text.codes.contains(codes::TOKEN_GENERATION_FAILED.code)
    {
        text.codes.insert(codes::UPSTREAM_FAILED.code);
    }
    if text.summary.is_empty() {
        complain("its documentation has no summary after the method and path".to_owned());
    }
    shown.insert("operationId".into(), json!(operation.id()));
    shown.insert("tags".into(), json!([operation.room()]));
    shown.insert("summary".into(), json!(text.summary));
    shown.insert("description".into(), json!(describe(&text.description, needs.key)));

    if operation.needs.body != shown.contains_key("requestBody") && !takes_raw_body(operation) {
        complain("`request_body` and the handler's signature do not agree".to_owned());
    }
    if let Some(body) = shown.get_mut("requestBody") {
        let schema = &mut body["content"]["application/json"]["schema"];
        // `Option` in an annotation: the body may be left out, and is never `null`.
        if schema["oneOf"][1]["type"] == "null" {
            *schema = schema["oneOf"][0].take();
            body["required"] = json!(false);
        }
    }
    let parameters = parameters(operation, shown.remove("parameters"), &mut complain);
    shown.insert("parameters".into(), parameters);
    if let Some(key) = needs.key {
        shown.insert("security".into(), security(key));
    } else if !shown.contains_key("security") {
        shown.insert("security".into(), json!([]));
    }
    let mut named = text.codes;
    named.extend(implied_codes(&needs).into_iter().map(|code| code.code));
    if needs.key.is_some() && !matches!(operation.method, "GET" | "HEAD") {
        named.insert(codes::CROSS_ORIGIN_REQUEST.code);
    }
    let responses = responses(shown.remove("responses"), &named, &mut complain);
    shown.insert("responses".into(), responses);
    Value::Object(shown)
}

/// Webhooks: the one body that is not JSON for us, annotated by hand.
fn takes_raw_body(operation: &Operation) -> bool {
    operation.needs == Needs { path: 1, request: true, ..Needs::default() } && operation.method == "POST"
}

/// A handler's documentation, taken apart.
struct Text {
    summary: String,
    description: String,
    codes: BTreeSet<&'static str>,
}

impl Text {
    fn read(shown: &Map<String, Value>, complain: &mut impl FnMut(String)) -> Self {
        let member = |name: &str| shown.get(name).and_then(Value::as_str).unwrap_or_default();
        let first = member("summary").replace('\n', " ");
        // "`GET /events/{id}`: with deliveries." says method and path for readers of the code.
        let first = match first.strip_prefix('`').and_then(|rest| rest.split_once('`')) {
            Some((_, rest)) => rest.trim_start_matches([':', ',', ' ']).to_owned(),
            None => first,
        };
        let (summary, rest) = first.split_once(". ").unwrap_or((&first, ""));
        let (more, errors) = member("description").split_once("# Errors").unwrap_or((member("description"), ""));
        let description: Vec<_> = [rest, more].iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
        let mut named = BTreeSet::new();
        for word in errors.split('`').skip(1).step_by(2) {
            match codes::find(word) {
                Some(code) => {
                    named.insert(code.code);
                }
                None => complain(format!("`{word}` in its errors is no code of the table")),
            }
        }
        Self {
            summary: capitalised(summary.trim().trim_end_matches('.')),
            description: description.join("\n\n"),
            codes: named,
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn describe(description: &str, key: Option<KeyNeed>) -> String {
    let who = match key {
        None => "",
        Some(KeyNeed { service: false, write: false }) => "Any key.",
        Some(KeyNeed { service: false, write: true }) => "Any key with the scope `write`.",
        Some(KeyNeed { service: true, write: false }) => "Service keys only.",
        Some(KeyNeed { service: true, write: true }) => "Service keys with the scope `write` only.",
    };
    let parts: Vec<_> = [description, who].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n\n")
}

fn security(key: KeyNeed) -> Value {
    let mut roles = vec![if key.write { "write" } else { "read" }];
    if key.service {
        roles.push("service");
    }
    json!([{"apiKey": roles}, {"bearer": roles}])
}

fn parameters(operation: &Operation, annotated: Option<Value>, complain: &mut impl FnMut(String)) -> Value {
    let mut parameters = Vec::new();
    let mut upto = String::new();
    for segment in operation.path.split('/').skip(1) {
        upto.push('/');
        upto.push_str(segment);
        let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) else { continue };
        match PATH_PARAMETERS.iter().find(|(known, _)| *known == upto) {
            Some((_, description)) => parameters.push(json!({
                "name": name, "in": "path", "required": true, "description": description, "schema": {"type": "string"},
            })),
            None => complain(format!("what stands at {upto} is not in the table of path parameters")),
        }
    }
    if parameters.len() != operation.needs.path {
        complain("the handler's signature reads another number of path parts".to_owned());
    }
    let Value::Array(annotated) = annotated.unwrap_or(json!([])) else { return json!([]) };
    let reads_query = annotated.iter().any(|parameter| parameter["in"] == "query");
    if reads_query != operation.needs.query && !(reads_query && operation.needs.request) {
        complain("`params` and the handler's signature do not agree on the query".to_owned());
    }
    parameters.extend(annotated);
    let shared: &[&str] = match operation.needs.key {
        Some(_) => &["OrgId", "UserId", "RequestId", "CorrelationId"],
        None => &["RequestId", "CorrelationId"],
    };
    parameters.extend(shared.iter().map(|name| json!({"$ref": format!("#/components/parameters/{name}")})));
    json!(parameters)
}

/// The annotated successes, and one answer for each status among the errors.
fn responses(annotated: Option<Value>, named: &BTreeSet<&'static str>, complain: &mut impl FnMut(String)) -> Value {
    let mut responses = match annotated {
        Some(Value::Object(responses)) => responses,
        _ => Map::new(),
    };
    if !responses.keys().any(|status| status.starts_with(['2', '3'])) {
        complain("it is never said to succeed".to_owned());
    }
    for (status, response) in &mut responses {
        if response["description"].as_str().unwrap_or_default().is_empty() {
            let word = match status.as_str() {
                "201" => "Created",
                "204" => "Nothing to say",
                "302" => "Go on there",
                _ => "Done",
            };
            response["description"] = json!(word);
        }
    }
    let mut by_status: BTreeMap<u16, Vec<&Code>> = BTreeMap::new();
    for code in codes::ALL.iter().filter(|code| named.contains(code.code)) {
        by_status.entry(code.status).or_default().push(code);
    }
    for (status, codes) in by_status {
        let mut one_of: Vec<_> =
            codes.iter().map(|code| json!({"$ref": format!("#/components/schemas/{}", schema_name(code))})).collect();
        let words: Vec<_> = codes.iter().map(|code| format!("`{}`: {}", code.code, code.title)).collect();
        let schema = if one_of.len() == 1 { one_of.remove(0) } else { json!({"oneOf": one_of}) };
        let entry = responses.entry(status.to_string()).or_insert_with(|| json!({}));
        let said = entry["description"].as_str().map(str::to_owned).into_iter();
        entry["description"] = json!(said.chain([words.join(" · ")]).collect::<Vec<_>>().join(" · "));
        entry["content"]["application/problem+json"] = json!({"schema": schema});
    }
    Value::Object(responses)
}

/// The name of a code's schema: `not_found` is `NotFoundProblem`.
pub fn schema_name(code: &Code) -> String {
    let words: String = code.code.split('_').map(capitalised).collect();
    format!("{words}Problem")
}

/// The schemas of every problem.
pub fn problem_schemas(complaints: &mut Vec<String>) -> Map<String, Value> {
    let mut schemas = Map::new();
    for code in codes::ALL {
        let mut properties = json!({
            "error": {"type": "string", "const": code.code},
            "title": {"type": "string", "description": "For people; may be reworded."},
            "status": {"type": "integer", "const": code.status},
            "requestId": {"type": "string"},
        });
        if code.status < 500 {
            properties["detail"] = json!({"type": "string", "description": "More than the title says, for people."});
        }
        for member in code.members {
            match problem_member(member) {
                Some(schema) => properties[*member] = schema,
                None => complaints.push(format!("the problem member `{member}` has no schema")),
            }
        }
        schemas.insert(
            schema_name(code),
            json!({
                "type": "object",
                "description": code.meaning,
                "properties": properties,
                "required": ["error", "title", "status", "requestId"],
            }),
        );
    }
    schemas
}
