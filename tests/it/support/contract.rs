//! The served OpenAPI document, and whether an answer is what it says: a validator for the part of JSON Schema that the
//! document uses. A keyword it does not know is a violation, so that nothing is passed over.
//!
//! It is stricter than the document: members that a schema does not name are violations too. A client must expect them; a
//! document that is complete has none.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};
use signalbox::sim::client::Answer;

use super::App;

/// Keywords that say nothing about a value.
const SILENT: &[&str] =
    &["description", "title", "default", "example", "pattern", "propertyNames", "minimum", "maximum"];

/// The document.
#[derive(Debug)]
pub struct Contract {
    document: Value,
    breaches: Mutex<BTreeSet<String>>,
}

/// One of its operations.
#[derive(Debug, Clone)]
pub struct Operation {
    /// `GET`.
    pub method: String,
    /// `/connections/{id}`.
    pub path: String,
    /// Its entry.
    pub entry: Value,
}

impl Operation {
    /// What it asks of a key: `read`, `write`, `service`; `None` if it needs none.
    pub fn roles(&self) -> Option<Vec<String>> {
        let security = self.entry["security"].as_array().expect("every operation says its security");
        if security.is_empty() || security.contains(&json!({})) {
            return None;
        }
        let roles = security[0]["apiKey"].as_array().expect("keys come as X-API-Key");
        assert_eq!(security[1]["bearer"].as_array(), Some(roles), "or as bearer");
        Some(roles.iter().map(|role| role.as_str().expect("a word").to_owned()).collect())
    }

    /// Its parameters at a place: `path`, `query`, `header`.
    pub fn parameters(&self, place: &str) -> Vec<String> {
        let all = self.entry["parameters"].as_array().expect("a list").iter();
        let here = all.filter(|parameter| parameter["in"] == place);
        here.map(|parameter| parameter["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// The schema of its JSON body.
    pub fn body(&self) -> Option<&Value> {
        self.entry.pointer("/requestBody/content/application~1json/schema")
    }
}

impl Contract {
    /// Asks a gateway for it.
    pub async fn served_by(app: &App) -> Self {
        let answer = app.send("GET", "/openapi.json", &[], "").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers.get("content-type"), Some("application/json"));
        assert_eq!(answer.body, signalbox::routes::openapi::document(), "it serves what is checked in");
        Self { document: answer.json(), breaches: Mutex::default() }
    }

    /// Every operation.
    pub fn operations(&self) -> Vec<Operation> {
        let paths = self.document["paths"].as_object().expect("paths").iter();
        let operations = paths.flat_map(|(path, item)| {
            item.as_object().expect("methods").iter().map(|(method, entry)| Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                entry: entry.clone(),
            })
        });
        operations.collect()
    }

    /// Notes what is wrong if the answer is none that the operation may give.
    pub fn check(&self, method: &str, path: &str, answer: &Answer) {
        let body = String::from_utf8_lossy(&answer.body);
        let mut breaches = self.breaches.lock().unwrap_or_else(PoisonError::into_inner);
        for violation in self.violations(method, path, answer) {
            breaches.insert(format!("{method} {path} answered {}: {violation}\n    in {body:.1000}", answer.status));
        }
    }

    /// Fails the test if any checked answer was none that the document allows.
    pub fn was_kept(&self) {
        let breaches = self.breaches.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = breaches.iter().map(String::as_str).collect();
        assert!(all.is_empty(), "what the gateway answers is not what its document says:\n{}", all.join("\n"));
    }

    fn violations(&self, method: &str, path: &str, answer: &Answer) -> Vec<String> {
        let responses = &self.document["paths"][path][method.to_lowercase()]["responses"];
        let Some(response) = responses.get(answer.status.to_string()) else {
            return vec!["the status".to_owned()];
        };
        if method == "HEAD" {
            return if answer.body.is_empty() { Vec::new() } else { vec!["a body".to_owned()] };
        }
        let media = answer.headers.get("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        let Some(contents) = response["content"].as_object() else {
            return if answer.body.is_empty() { Vec::new() } else { vec!["a body".to_owned()] };
        };
        let Some(content) = contents.get(media).or(contents.get("*/*")) else {
            return vec![format!("the content type {media}")];
        };
        let mut found = Vec::new();
        if contents.contains_key(media) && media.ends_with("json") {
            self.validate(&content["schema"], &answer.json(), "", true, &mut found);
        }
        found
    }

    /// The schema itself, where it is named.
    pub fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').expect("a local reference");
                self.document.pointer(pointer).unwrap_or_else(|| panic!("{reference} is dangling"))
            }
            None => schema,
        }
    }

    fn validate(&self, schema: &Value, value: &Value, at: &str, closed: bool, found: &mut Vec<String>) {
        let schema = self.resolved(schema).as_object().unwrap_or_else(|| panic!("at {at}: no schema"));
        for (keyword, says) in schema {
            match (keyword.as_str(), value) {
                ("type", _) if !has_type(says, value) => found.push(format!("{at}: {value} is no {says}")),
                ("const", _) if says != value => found.push(format!("{at}: {value} is not {says}")),
                ("enum", _) if !says.as_array().is_some_and(|words| words.contains(value)) => {
                    found.push(format!("{at}: {value} is none of {says}"));
                }
                ("format", Value::String(text)) if says == "date-time" && !is_time(text) => {
                    found.push(format!("{at}: {text} is no time"));
                }
                ("required", Value::Object(members)) => {
                    let names = says.as_array().expect("names").iter().filter_map(Value::as_str);
                    found.extend(
                        names.filter(|name| !members.contains_key(*name)).map(|name| format!("{at}/{name} is missing")),
                    );
                }
                ("properties", Value::Object(members)) => {
                    for (name, schema) in says.as_object().expect("properties") {
                        if let Some(member) = members.get(name) {
                            self.validate(schema, member, &format!("{at}/{name}"), true, found);
                        }
                    }
                }
                ("additionalProperties", Value::Object(members)) => {
                    for (name, member) in members {
                        self.validate(says, member, &format!("{at}/{name}"), true, found);
                    }
                }
                ("items", Value::Array(items)) => {
                    for (index, item) in items.iter().enumerate() {
                        self.validate(says, item, &format!("{at}/{index}"), true, found);
                    }
                }
                ("allOf", _) => {
                    says.as_array()
                        .expect("schemas")
                        .iter()
                        .for_each(|one| self.validate(one, value, at, false, found));
                }
                ("oneOf", _) => self.validate_one_of(says, value, at, found),
                (
                    "type" | "const" | "enum" | "format" | "required" | "properties" | "additionalProperties" | "items",
                    _,
                ) => {}
                (keyword, _) if SILENT.contains(&keyword) => {}
                (keyword, _) => found.push(format!("{at}: this test does not know the keyword {keyword}")),
            }
        }
        let known = self.known_members(&Value::Object(schema.clone()));
        if let (true, Value::Object(members), Some(known)) = (closed, value, known) {
            let unknown = members.keys().filter(|name| !known.contains(*name));
            found.extend(unknown.map(|name| format!("{at}/{name} is not documented")));
        }
    }

    fn validate_one_of(&self, schemas: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        let tried: Vec<_> = (schemas.as_array().expect("schemas").iter())
            .map(|schema| {
                let mut found = Vec::new();
                self.validate(schema, value, at, true, &mut found);
                found
            })
            .collect();
        if tried.iter().filter(|found| found.is_empty()).count() != 1 {
            found.push(format!("{at}: not exactly one of {} fits: {tried:?}", tried.len()));
        }
    }

    /// The members an object may have, if its schema lists them.
    fn known_members(&self, schema: &Value) -> Option<BTreeSet<String>> {
        let schema = self.resolved(schema);
        if schema.get("additionalProperties").is_some() {
            return None;
        }
        let own =
            schema["properties"].as_object().map(|properties| properties.keys().cloned().collect::<BTreeSet<_>>());
        let parts = schema["allOf"].as_array().into_iter().flatten().map(|part| self.known_members(part));
        parts.chain([own]).flatten().reduce(|one, other| one.union(&other).cloned().collect())
    }

    /// A body that the schema allows, with these members where it has them.
    pub fn sample(&self, schema: &Value, chosen: &dyn Fn(&str) -> Option<Value>) -> Value {
        let schema = self.resolved(schema);
        match schema["type"].as_str() {
            Some("object") => {
                let properties = schema["properties"].as_object().into_iter().flatten();
                let required =
                    |name: &String| schema["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
                let members = properties.filter_map(|(name, schema)| {
                    let value = chosen(name).or_else(|| required(name).then(|| self.sample(schema, chosen)))?;
                    Some((name.clone(), value))
                });
                Value::Object(members.collect())
            }
            Some("array") => json!([self.sample(&schema["items"], chosen)]),
            Some("integer" | "number") => json!(1),
            Some("boolean") => json!(true),
            _ => schema["enum"].get(0).cloned().unwrap_or_else(|| json!("x")),
        }
    }

    /// The names of all members of a body, however deep.
    pub fn member_names(&self, schema: &Value, names: &mut BTreeSet<String>) {
        let schema = self.resolved(schema);
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            names.insert(name.clone());
            self.member_names(schema, names);
        }
        for part in ["items", "oneOf", "allOf"] {
            match &schema[part] {
                Value::Array(schemas) => schemas.iter().for_each(|schema| self.member_names(schema, names)),
                Value::Null => {}
                one => self.member_names(one, names),
            }
        }
    }
}

fn has_type(types: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    };
    match types {
        Value::Array(types) => types.iter().filter_map(Value::as_str).any(is),
        one => is(one.as_str().expect("a type")),
    }
}

/// RFC 3339 in UTC, as the gateway writes it.
fn is_time(text: &str) -> bool {
    signalbox::model::clock::EpochMs::parse_rfc3339(text).is_some() && text.ends_with('Z')
}
