//! Spans in the JSON encoding of OTLP (opentelemetry-proto 1.x, `trace/v1/trace.proto`, "OTLP/HTTP JSON").
//!
//! **Invariants**: ids are lower-case hexadecimal and never zero; 64-bit integers are strings, as the JSON mapping of
//! Protocol Buffers wants them, and enums are numbers, as OTLP wants them. **Must not know** what the spans mean.

use std::fmt;

use serde_json::json;

/// A trace's id, not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceId(u128);

impl TraceId {
    pub fn random() -> Self {
        // The lowest bit is set so that neither the trace's id nor its root's is zero.
        Self(rand::random::<u128>() | 1)
    }

    /// 32 hexadecimal digits as they are stored.
    pub fn parse(stored: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(stored, &mut bytes).ok()?;
        let id = u128::from_be_bytes(bytes);
        (id != 0).then_some(Self(id))
    }

    /// The id of the trace's root span: its own second half, so that whoever knows the trace knows its root.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    pub fn root(self) -> SpanId {
        SpanId((self.0 as u64).max(1))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A span's id, not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpanId(u64);

impl SpanId {
    pub fn random() -> Self {
        Self(rand::random::<u64>() | 1)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// `SpanKind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpanKind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Int(i64),
}

impl Value {
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => json!({ "stringValue": text }),
            Self::Int(number) => json!({ "intValue": number.to_string() }),
        }
    }
}

/// `STATUS_CODE_ERROR`.
const STATUS_ERROR: u8 = 2;

/// A span that ended.
#[derive(Debug)]
pub(super) struct Span {
    pub trace: TraceId,
    pub id: SpanId,
    pub parent: Option<SpanId>,
    pub name: &'static str,
    pub kind: SpanKind,
    /// Nanoseconds since the Unix epoch.
    pub start_ns: u64,
    /// Nanoseconds since the Unix epoch.
    pub end_ns: u64,
    pub attributes: Vec<(&'static str, Value)>,
    pub failed: bool,
}

impl Span {
    fn to_json(&self) -> serde_json::Value {
        let mut span = json!({
            "traceId": self.trace.to_string(),
            "spanId": self.id.to_string(),
            "name": self.name,
            "kind": self.kind as u8,
            "startTimeUnixNano": self.start_ns.to_string(),
            "endTimeUnixNano": self.end_ns.to_string(),
            "attributes": attributes(&self.attributes),
        });
        if let Some(parent) = self.parent {
            span["parentSpanId"] = parent.to_string().into();
        }
        if self.failed {
            span["status"] = json!({ "code": STATUS_ERROR });
        }
        span
    }
}

fn attributes(named: &[(&'static str, Value)]) -> Vec<serde_json::Value> {
    named.iter().map(|(key, value)| json!({ "key": key, "value": value.to_json() })).collect()
}

/// An `ExportTraceServiceRequest` of this node's spans.
pub(super) fn request(node: &str, spans: &[Span]) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let resource = [
        ("service.name", Value::text("signalbox")),
        ("service.version", Value::text(version)),
        ("service.instance.id", Value::text(node)),
    ];
    json!({
        "resourceSpans": [{
            "resource": { "attributes": attributes(&resource) },
            "scopeSpans": [{
                "scope": { "name": "signalbox", "version": version },
                "spans": spans.iter().map(Span::to_json).collect::<Vec<_>>(),
            }],
        }],
    })
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_looks_as_the_protocol_says() {
        let trace = TraceId::parse("5b8efff798038103d269b633813fc60c").expect("an id");
        let span = Span {
            trace,
            id: SpanId(0x0eee_19b7_ec3c_1b17),
            parent: Some(trace.root()),
            name: "attempt",
            kind: SpanKind::Client,
            start_ns: 1_544_712_660_000_000_000,
            end_ns: 1_544_712_661_000_000_000,
            attributes: vec![("delivery.attempt", Value::Int(2)), ("result", Value::text("timeout"))],
            failed: true,
        };
        let request: serde_json::Value = serde_json::from_slice(&request("node-1", &[span])).expect("JSON");
        let spans = &request["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!(
            *spans,
            json!([{
                "traceId": "5b8efff798038103d269b633813fc60c",
                "spanId": "0eee19b7ec3c1b17",
                "parentSpanId": "d269b633813fc60c",
                "name": "attempt",
                "kind": 3,
                "startTimeUnixNano": "1544712660000000000",
                "endTimeUnixNano": "1544712661000000000",
                "attributes": [
                    { "key": "delivery.attempt", "value": { "intValue": "2" } },
                    { "key": "result", "value": { "stringValue": "timeout" } },
                ],
                "status": { "code": 2 },
            }])
        );
        let resource = &request["resourceSpans"][0]["resource"]["attributes"];
        assert_eq!(resource[0], json!({ "key": "service.name", "value": { "stringValue": "signalbox" } }));
    }

    #[test]
    fn trace_ids_are_read_as_they_are_written_and_zero_is_none() {
        let id = TraceId::random();
        assert_eq!(TraceId::parse(&id.to_string()), Some(id));
        assert_eq!(TraceId::parse(&"0".repeat(32)), None);
        assert_eq!(TraceId::parse("5b8e"), None);
    }
}
