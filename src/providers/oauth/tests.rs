//! The standard flows against a token endpoint that says what each test wants to hear.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    sync::Mutex,
};

use super::*;
use crate::providers::api_url::ApiUrl;

const NOW: EpochMs = EpochMs(1_780_000_000_000);
const CALLBACK: &str = "http://127.0.0.1:4110/connections/acme/callback";

/// A token endpoint with one answer, which keeps what it was asked.
struct Endpoint {
    client: OAuthClient,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Endpoint {
    /// `None` reads the request and hangs up.
    async fn answering(answer: Option<(u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !is_whole(&request) {
                    let mut chunk = [0; 4096];
                    match connection.read(&mut chunk).await {
                        Ok(read) if read > 0 => request.extend_from_slice(&chunk[..read]),
                        _ => break,
                    }
                }
                seen.lock().await.push(String::from_utf8_lossy(&request).into_owned());
                if let Some((status, body)) = &answer {
                    let head = format!(
                        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nretry-after: 7\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    connection.write_all(format!("{head}{body}").as_bytes()).await.expect("written");
                }
            }
        });
        let base = ApiUrl::parse(&base).expect("a base");
        let client = OAuthClient {
            authorize_url: base.at("/oauth/authorize"),
            token_url: base.at("/oauth/token"),
            client_id: "the client".into(),
            client_secret: Secret::new("s&cret=").expect("not empty"),
            http: HttpClient::new().expect("a client"),
        };
        Self { client, asked }
    }

    async fn saying(status: u16, body: &serde_json::Value) -> Self {
        Self::answering(Some((status, body.to_string()))).await
    }

    async fn exchange(&self) -> Result<TokenAnswer, ConnectorError> {
        let parameters = BTreeMap::new();
        let verifier = Secret::new("a-verifier").expect("not empty");
        let callback = Callback {
            parameters: &parameters,
            redirect_uri: CALLBACK,
            pkce_verifier: Some(&verifier),
            context: None,
            now: NOW,
        };
        self.client.exchange_code("a+code", &callback).await
    }

    async fn refresh(&self) -> Result<TokenAnswer, ConnectorError> {
        self.client.refresh(&Secret::new("a refresh token").expect("not empty")).await
    }

    /// The fields of the only request.
    async fn form(&self) -> BTreeMap<String, String> {
        let asked = self.asked.lock().await;
        assert_eq!(asked.len(), 1, "one call and no other");
        let (head, body) = asked[0].split_once("\r\n\r\n").expect("a request");
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /oauth/token "), "{head}");
        assert!(head.contains("content-type: application/x-www-form-urlencoded"), "{head}");
        assert!(head.contains("accept: application/json") && !head.contains("authorization:"), "{head}");
        form_urlencoded::parse(body.as_bytes()).into_owned().collect()
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .to_ascii_lowercase()
        .split_once("content-length: ")
        .and_then(|(_, rest)| rest.split("\r\n").next().and_then(|digits| digits.trim().parse::<usize>().ok()));
    body.len() >= length.unwrap_or(0)
}

fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_code_is_exchanged_with_its_verifier_and_the_callback_as_it_was_sent() {
    let answer = json!({"access_token": "at", "token_type": "Bearer", "expires_in": 86_399, "refresh_token": "rt",
        "scope": "read write", "refresh_token_expires_in": 15_897_600});
    let endpoint = Endpoint::saying(200, &answer).await;
    let fresh = endpoint.exchange().await.expect("exchanged").into_fresh(NOW, None);
    assert_eq!(fresh.access.expose(), b"at");
    assert_eq!(fresh.refresh.map(|token| token.expose().to_vec()), Some(b"rt".to_vec()));
    assert_eq!((fresh.token_type.as_deref(), fresh.scope.as_deref()), (Some("Bearer"), Some("read write")));
    assert_eq!(fresh.expires_at, Some(EpochMs(NOW.0 + 86_399_000)));
    assert_eq!(fresh.refresh_expires_at, Some(EpochMs(NOW.0 + 15_897_600_000)));
    let sent = [
        ("grant_type", "authorization_code"),
        ("code", "a+code"),
        ("code_verifier", "a-verifier"),
        ("redirect_uri", CALLBACK),
        ("client_id", "the client"),
        ("client_secret", "s&cret="),
    ];
    assert_eq!(endpoint.form().await, fields(&sent));
}

#[tokio::test]
async fn an_answer_with_more_or_less_in_it_than_the_standard_says_is_understood() {
    let minimal = Endpoint::saying(201, &json!({"access_token": "at"})).await.exchange().await.expect("exchanged");
    assert!(minimal.refresh.is_none() && minimal.expires_in.is_none() && minimal.scope.is_none());
    let lifetime = Some(Duration::from_mins(1));
    assert_eq!(minimal.clone().into_fresh(NOW, lifetime).expires_at, Some(EpochMs(NOW.0 + 60_000)));
    assert_eq!(minimal.into_fresh(NOW, None).expires_at, None);
    let odd = json!({"access_token": "at", "token_type": null, "expires_in": "90", "refresh_token": null,
        "scope": ["read", "write"], "surprise": {"nested": true}});
    let odd = Endpoint::saying(200, &odd).await.exchange().await.expect("exchanged");
    assert_eq!((odd.expires_in, odd.scope.as_deref(), odd.refresh.is_none()), (Some(90), Some("read write"), true));
    let commas = json!({"access_token": "at", "scope": "read,write", "expires_in": -5});
    let commas = Endpoint::saying(200, &commas).await.exchange().await.expect("exchanged");
    assert_eq!((commas.expires_in, commas.scope.as_deref()), (None, Some("read write")));
}

#[tokio::test]
async fn an_error_is_an_error_whatever_the_status_of_its_answer() {
    for (status, error, expected) in [
        (200, "bad_verification_code", "invalid_code"),
        (400, "invalid_grant", "invalid_code"),
        (200, "incorrect_client_credentials", "provider_error"),
        (401, "invalid_client", "provider_error"),
        (200, "<script>alert(1)</script>", "provider_error"),
    ] {
        let answer = json!({"error": error, "error_description": "words of theirs", "access_token": "never"});
        let outcome = Endpoint::saying(status, &answer).await.exchange().await;
        assert_eq!(outcome.err(), Some(ConnectorError::Refused(expected)), "{status} {error}");
    }
}

#[tokio::test]
async fn only_an_explicit_verdict_ends_a_grant() {
    let verdict = |status, answer: serde_json::Value| async move {
        Endpoint::saying(status, &answer).await.refresh().await.map(|_| ()).expect_err("refused")
    };
    assert_eq!(verdict(400, json!({"error": "invalid_grant"})).await, ConnectorError::Rejected);
    assert_eq!(verdict(200, json!({"error": "bad_refresh_token"})).await, ConnectorError::Rejected);
    for (status, answer) in [
        (400, json!({"error": "invalid_request"})),
        (401, json!({"error": "invalid_client"})),
        (403, json!({"message": "no"})),
        (404, json!("not here")),
        (302, json!({})),
    ] {
        let error = verdict(status, answer).await;
        assert!(matches!(error, ConnectorError::Unavailable { retry_after: None, .. }), "{status}: {error:?}");
    }
    for status in [429, 500, 503] {
        let error = verdict(status, json!({"error": "invalid_grant"})).await;
        let ConnectorError::Unavailable { retry_after, .. } = error else { panic!("{status}: {error:?}") };
        assert_eq!(retry_after, Some(Duration::from_secs(7)), "{status}");
    }
}

#[tokio::test]
async fn a_rotation_whose_result_nobody_learned_is_said_to_be_lost() {
    for answer in [None, Some((200, "{\"access_token\": \"cut o".to_owned())), Some((200, String::new()))] {
        assert_eq!(Endpoint::answering(answer.clone()).await.refresh().await.err(), Some(ConnectorError::AnswerLost));
    }
    for answer in [json!({}), json!({"access_token": ""}), json!([])] {
        let outcome = Endpoint::saying(200, &answer).await.refresh().await;
        assert_eq!(outcome.err(), Some(ConnectorError::AnswerLost), "{answer}");
    }
    let endpoint = Endpoint::saying(200, &json!({"access_token": "at2"})).await;
    let fresh = endpoint.refresh().await.expect("refreshed");
    assert!(fresh.refresh.is_none(), "the old refresh token is to be kept");
    assert_eq!(endpoint.form().await["refresh_token"], "a refresh token");
}

#[tokio::test]
async fn nobody_there_is_told_from_an_answer_that_is_lost() {
    let mut endpoint = Endpoint::answering(None).await;
    // Bound and not listening: nobody else can be there.
    let reserved = TcpSocket::new_v4().expect("a socket");
    reserved.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let closed = reserved.local_addr().expect("an address");
    endpoint.client.token_url = Url::parse(&format!("http://{closed}/oauth/token")).expect("a URL");
    assert!(matches!(endpoint.refresh().await, Err(ConnectorError::Unavailable { .. })));
}

#[tokio::test]
async fn the_page_gets_state_callback_and_challenge() {
    let endpoint = Endpoint::answering(None).await;
    let leg = Leg { state: "st&te", redirect_uri: CALLBACK, pkce_challenge: Some("challenge"), context: None };
    let page = endpoint.client.authorize_url(&leg, &[("scope", "read,write")]).expect("a page");
    assert!(page.as_str().starts_with(&format!("{}?", endpoint.client.authorize_url)), "{page}");
    let sent = [
        ("response_type", "code"),
        ("client_id", "the client"),
        ("state", "st&te"),
        ("redirect_uri", CALLBACK),
        ("code_challenge", "challenge"),
        ("code_challenge_method", "S256"),
        ("scope", "read,write"),
    ];
    assert_eq!(page.query_pairs().into_owned().collect::<BTreeMap<_, _>>(), fields(&sent));
}

#[test]
fn a_declined_page_is_told_from_other_errors_and_from_a_missing_code() {
    let read = |pairs: &[(&str, &str)]| {
        let parameters = fields(pairs);
        let callback =
            Callback { parameters: &parameters, redirect_uri: CALLBACK, pkce_verifier: None, context: None, now: NOW };
        callback_code(&callback).map(str::to_owned)
    };
    assert_eq!(read(&[("code", "c")]), Ok("c".into()));
    assert_eq!(read(&[("error", "access_denied"), ("code", "c")]), Err(ConnectorError::Refused("access_denied")));
    assert_eq!(read(&[("error", "<b>")]), Err(ConnectorError::Refused("provider_error")));
    assert_eq!(read(&[("code", "")]), Err(ConnectorError::Refused("missing_code")));
}
