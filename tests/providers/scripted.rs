//! A provider that says what each test wants to hear, for answers that a well-behaved simulator does not give; and what
//! the tests of asking halves share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde_json::{Map, Value};
use signalbox::{
    model::{clock::EpochMs, provider::ExternalId, secret::Secret},
    providers::{
        Connector, ConnectorError, ConnectorSettingError, ConnectorSettings, HttpClient, Registry,
        connector::{Callback, Completion, Connected, Grant, HeldToken, ProxyAnswer, ProxyCall},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub const NOW: EpochMs = EpochMs(1_780_000_000_000);
pub const REDIRECT: &str = "http://127.0.0.1:4110/connections/acme/callback";
/// A verifier for the providers that use PKCE.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// What is answered to a call.
#[derive(Clone)]
pub enum Say {
    /// A status, headers, a body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Reads the call and hangs up.
    HangUp,
}

/// JSON with a status.
pub fn json(status: u16, body: &Value) -> Say {
    Say::Answer(status, vec![], body.to_string())
}

/// A status and no body.
pub fn status(status: u16) -> Say {
    Say::Answer(status, vec![], String::new())
}

/// 429 that says when to come back.
pub fn too_many(seconds: u32) -> Say {
    Say::Answer(429, vec![("retry-after", seconds.to_string())], String::new())
}

/// A call as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method and path, as `GET /v2/user`.
    pub what: String,
    pub query: BTreeMap<String, String>,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn form(&self) -> BTreeMap<String, String> {
        assert_eq!(self.headers["content-type"], "application/x-www-form-urlencoded", "{}", self.what);
        form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{}", self.what);
        serde_json::from_str(&self.body).expect("JSON")
    }

    pub fn bearer(&self) -> Option<&str> {
        self.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "))
    }
}

/// The provider: each line is for one call, in any order between different calls. What has no line is 404.
pub struct Scripted {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    pub async fn saying(lines: impl IntoIterator<Item = (&str, Say)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let mut lines: Vec<(String, Say)> = lines.into_iter().map(|(what, say)| (what.to_owned(), say)).collect();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let Some(call) = read(&mut connection).await else { continue };
                let line = lines.iter().position(|(what, _)| *what == call.what);
                seen.lock().expect("no poison").push(call);
                let say = line.map_or_else(|| status(404), |line| lines.remove(line).1);
                let Say::Answer(status, headers, body) = say else { continue };
                let mut head =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.extend([name, ": ", &value, "\r\n"]);
                }
                connection.write_all(format!("{head}\r\n{body}").as_bytes()).await.expect("written");
            }
        });
        Self { url, asked }
    }

    /// Every call, as `GET /v2/user`.
    pub fn whats(&self) -> Vec<String> {
        self.asked.lock().expect("no poison").iter().map(|asked| asked.what.clone()).collect()
    }

    /// The calls of one kind.
    pub fn asked(&self, what: &str) -> Vec<Asked> {
        self.asked.lock().expect("no poison").iter().filter(|asked| asked.what == what).cloned().collect()
    }

    /// The only call of its kind.
    pub fn only(&self, what: &str) -> Asked {
        let mut asked = self.asked(what);
        assert_eq!(asked.len(), 1, "{what} among {:?}", self.whats());
        asked.remove(0)
    }
}

async fn read(connection: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.split("\r\n");
            let mut first = lines.next()?.split(' ');
            let (method, target) = (first.next()?, first.next()?);
            let headers: BTreeMap<String, String> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
                return Some(Asked { what: format!("{method} {path}"), query, headers, body: body.to_owned() });
            }
        }
        match connection.read(&mut chunk).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&chunk[..read]),
            _ => return None,
        }
    }
}

pub fn secret(text: &str) -> Secret {
    Secret::new(text).expect("not empty")
}

/// The settings of a provider whose web and API bases are both `url`.
pub fn settings(url: &str) -> ConnectorSettings {
    let texts = [
        ("web_url", url),
        ("api_url", url),
        ("client_id", "the client"),
        ("integration_slug", "signalbox"),
        ("app_slug", "signalbox"),
    ];
    let texts = texts.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ConnectorSettings { texts: texts.into(), secrets: [("client_secret".to_owned(), secret("s&cret"))].into() }
}

pub fn try_connector(slug: &str, settings: &ConnectorSettings) -> Result<Arc<dyn Connector>, ConnectorSettingError> {
    let registered = Registry::built_in().iter().find(|registered| registered.spec.slug.as_str() == slug);
    (registered.expect("registered").connect)(settings, &HttpClient::new().expect("a client"))
}

pub fn connector(slug: &str, provider: &Scripted) -> Arc<dyn Connector> {
    try_connector(slug, &settings(&provider.url)).expect("everything is set")
}

/// Completes a callback with these parameters.
pub async fn complete(connector: &dyn Connector, parameters: &[(&str, &str)]) -> Result<Connected, ConnectorError> {
    let parameters: BTreeMap<String, String> =
        parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let verifier = secret(VERIFIER);
    let callback = Callback {
        parameters: &parameters,
        redirect_uri: REDIRECT,
        pkce_verifier: connector.uses_pkce(None).then_some(&verifier),
        context: None,
        now: NOW,
    };
    match connector.complete(&callback).await? {
        Completion::Connected(connected) => Ok(*connected),
        other => panic!("{other:?}"),
    }
}

pub fn grant(external_id: &str, alternate: Option<&str>, metadata: Value) -> Grant {
    let Value::Object(metadata) = metadata else { panic!("metadata is an object") };
    Grant {
        external_id: ExternalId::new(external_id),
        alternate_external_id: alternate.map(ExternalId::new),
        account_login: None,
        metadata,
        now: NOW,
    }
}

pub fn held(access: &str, refresh: Option<&str>) -> HeldToken {
    HeldToken { access: secret(access), refresh: refresh.map(secret) }
}

pub fn text(secret: &Secret) -> &str {
    secret.expose_str().expect("text")
}

/// Makes a call of the proxy.
pub async fn proxy(
    connector: &dyn Connector,
    grant: &Grant,
    endpoint: &str,
    path: &[(&str, &str)],
    query: &[(&str, &str)],
    body: Option<Value>,
) -> Result<ProxyAnswer, ConnectorError> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let endpoint = connector.proxy_endpoints().iter().find(|known| known.id == endpoint).expect("allowed");
    let call = ProxyCall {
        endpoint,
        path_parameters: path.iter().map(own).collect(),
        query: query.iter().map(own).collect(),
        body,
    };
    connector.call(grant, &secret("at"), &call).await
}

/// The facts that are in an object, as text.
pub fn fact<'a>(facts: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    facts.get(name).and_then(Value::as_str)
}
