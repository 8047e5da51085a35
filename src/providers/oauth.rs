//! The standard flows of OAuth 2.0 (RFC 6749, PKCE: RFC 7636) over our client: authorization page, code exchange,
//! refresh. The messages are the `oauth2` crate's.
//!
//! **Invariants**: an answer that carries `error` is an error, whatever its status; only `invalid_grant` (and GitHub's
//! word for it) is a verdict on a grant; a provider's own error text goes nowhere. **Must not know** any provider.

use std::{borrow::Cow, collections::BTreeMap, pin::Pin, time::Duration};

use oauth2::{
    AccessToken, AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken,
    EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, PkceCodeVerifier, RedirectUrl, RefreshToken,
    RequestTokenError, Scope, StandardRevocableToken, TokenResponse, TokenUrl,
    basic::{
        BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
    },
    http,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use url::Url;

use super::{
    connector::{Callback, ConnectorError, FreshToken, Leg},
    http::{Call, HttpClient, Reply},
};
use crate::model::{clock::EpochMs, secret::Secret};

/// An OAuth client registered at a provider.
#[derive(Debug, Clone)]
pub(super) struct OAuthClient {
    /// The page people visit.
    pub authorize_url: Url,
    /// Where codes and refresh tokens are exchanged.
    pub token_url: Url,
    /// Its id.
    pub client_id: String,
    /// Its secret, sent in the form.
    pub client_secret: Secret,
    /// What carries the calls.
    pub http: HttpClient,
}

/// What a token endpoint gave.
#[derive(Debug, Clone)]
pub(super) struct TokenAnswer {
    /// The access token.
    pub access: Secret,
    /// The refresh token, if one came.
    pub refresh: Option<Secret>,
    /// `token_type` as it came.
    pub token_type: Option<String>,
    /// Scopes, separated by spaces.
    pub scope: Option<String>,
    /// The access token's lifetime, seconds.
    pub expires_in: Option<u64>,
    /// The refresh token's lifetime, seconds (`refresh_token_expires_in`).
    pub refresh_expires_in: Option<u64>,
}

impl TokenAnswer {
    /// The token, dying when the answer says, else after the provider's documented lifetime, else never.
    pub fn into_fresh(self, now: EpochMs, documented_lifetime: Option<Duration>) -> FreshToken {
        let lifetime = self.expires_in.map(Duration::from_secs).or(documented_lifetime);
        FreshToken {
            access: self.access,
            refresh: self.refresh,
            token_type: self.token_type,
            scope: self.scope,
            expires_at: lifetime.map(|lifetime| now.plus(lifetime)),
            refresh_expires_at: self.refresh_expires_in.map(|seconds| now.plus(Duration::from_secs(seconds))),
        }
    }
}

/// The code a callback brought.
///
/// # Errors
/// [`ConnectorError::Refused`]: `access_denied` if the person declined, `provider_error` for any other error of the
/// provider, `missing_code`.
pub(super) fn callback_code<'a>(callback: &Callback<'a>) -> Result<&'a str, ConnectorError> {
    check_callback(callback)?;
    filled(callback.parameters, "code").ok_or(ConnectorError::Refused("missing_code"))
}

/// Whether a callback tells of an error.
///
/// # Errors
/// As for [`callback_code`], without `missing_code`.
pub(super) fn check_callback(callback: &Callback<'_>) -> Result<(), ConnectorError> {
    match callback.parameters.get("error").map(String::as_str) {
        None => Ok(()),
        Some("access_denied") => Err(ConnectorError::Refused("access_denied")),
        Some(_) => Err(ConnectorError::Refused("provider_error")),
    }
}

/// A parameter that is there and not empty.
pub(super) fn filled<'a>(parameters: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    parameters.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// Whether a refusal is a verdict on the grant; for a token endpoint that is not the standard's in everything else.
pub(super) fn rejects_grant(reply: &Reply) -> bool {
    let told = reply.json::<BasicErrorResponse>("a refusal");
    told.is_ok_and(|told| matches!(Failure::told(&told), Failure::GrantRejected))
}

type StandardClient = Client<
    BasicErrorResponse,
    WireAnswer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

impl OAuthClient {
    /// The provider's page for a leg; `extra` are the provider's own parameters (`scope`, `prompt`).
    ///
    /// # Errors
    /// [`ConnectorError::Malformed`] if our own callback is no URL.
    pub fn authorize_url(&self, leg: &Leg<'_>, extra: &[(&str, &str)]) -> Result<Url, ConnectorError> {
        let client = self.standard()?;
        let state = leg.state.to_owned();
        let mut request =
            client.authorize_url(|| CsrfToken::new(state)).set_redirect_uri(Cow::Owned(redirect(leg.redirect_uri)?));
        if let Some(challenge) = leg.pkce_challenge {
            request =
                request.add_extra_param("code_challenge", challenge).add_extra_param("code_challenge_method", "S256");
        }
        for (name, value) in extra {
            request = request.add_extra_param(*name, *value);
        }
        Ok(request.url().0)
    }

    /// Exchanges the code of a callback.
    ///
    /// # Errors
    /// [`ConnectorError::Refused`]: `invalid_code` if the provider does not accept the code, `provider_error` if it
    /// refuses for another reason (which is logged if it is one of the standard's); else as for any call.
    pub async fn exchange_code(&self, code: &str, callback: &Callback<'_>) -> Result<TokenAnswer, ConnectorError> {
        self.exchange(code, Some(callback.redirect_uri), callback.pkce_verifier).await
    }

    /// Exchanges a code that came of a page to which no `redirect_uri` was sent, or with one.
    ///
    /// # Errors
    /// As [`Self::exchange_code`].
    pub async fn exchange(
        &self,
        code: &str,
        redirect_uri: Option<&str>,
        pkce_verifier: Option<&Secret>,
    ) -> Result<TokenAnswer, ConnectorError> {
        let client = self.standard()?;
        let mut request = client.exchange_code(AuthorizationCode::new(code.to_owned()));
        if let Some(uri) = redirect_uri {
            request = request.set_redirect_uri(Cow::Owned(redirect(uri)?));
        }
        if let Some(verifier) = pkce_verifier.and_then(Secret::expose_str) {
            request = request.set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()));
        }
        let endpoint = TokenEndpoint(self.http.clone());
        let answer = request.request_async(&endpoint).await;
        match answer.map_err(Failure::of) {
            Ok(answer) => answer.understand(),
            Err(Failure::Call(error)) => Err(error),
            Err(Failure::GrantRejected) => Err(ConnectorError::Refused("invalid_code")),
            Err(Failure::Refused(reason)) => {
                tracing::warn!(oauth.error = reason, "a provider refused to exchange a code");
                Err(ConnectorError::Refused("provider_error"))
            }
            Err(Failure::NotUnderstood) => Err(ConnectorError::Malformed("the answer to a code")),
        }
    }

    /// Exchanges a refresh token.
    ///
    /// # Errors
    /// [`ConnectorError::Rejected`] if the provider says that the grant is dead; [`ConnectorError::AnswerLost`] also if
    /// an answer came that cannot be read, because the provider has rotated the token by then.
    pub async fn refresh(&self, refresh: &Secret) -> Result<TokenAnswer, ConnectorError> {
        let client = self.standard()?;
        let token = RefreshToken::new(refresh.expose_str().ok_or(ConnectorError::Rejected)?.to_owned());
        let endpoint = TokenEndpoint(self.http.clone());
        let answer = client.exchange_refresh_token(&token).request_async(&endpoint).await;
        match answer.map_err(Failure::of) {
            Ok(answer) => answer.understand().map_err(|_| ConnectorError::AnswerLost),
            Err(Failure::Call(ConnectorError::Malformed(_)) | Failure::NotUnderstood) => {
                Err(ConnectorError::AnswerLost)
            }
            Err(Failure::Call(error)) => Err(error),
            Err(Failure::GrantRejected) => Err(ConnectorError::Rejected),
            Err(Failure::Refused(reason)) => {
                tracing::warn!(oauth.error = reason, "a provider refused to refresh a token");
                Err(ConnectorError::unavailable("the refresh was refused, though not the grant"))
            }
        }
    }

    fn standard(&self) -> Result<StandardClient, ConnectorError> {
        let secret = self.client_secret.expose_str().ok_or(ConnectorError::Malformed("our own client secret"))?;
        Ok(Client::new(ClientId::new(self.client_id.clone()))
            .set_client_secret(ClientSecret::new(secret.to_owned()))
            .set_auth_type(AuthType::RequestBody)
            .set_auth_uri(AuthUrl::from_url(self.authorize_url.clone()))
            .set_token_uri(TokenUrl::from_url(self.token_url.clone())))
    }
}

/// Our callback, to be sent letter for letter as it was registered.
fn redirect(uri: &str) -> Result<RedirectUrl, ConnectorError> {
    RedirectUrl::new(uri.to_owned()).map_err(|_| ConnectorError::Malformed("our own callback"))
}

/// The `oauth2` crate's way out, over our client.
struct TokenEndpoint(HttpClient);

/// A call that gave no answer of the protocol.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct CallFailure(ConnectorError);

impl<'c> AsyncHttpClient<'c> for TokenEndpoint {
    type Error = CallFailure;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, CallFailure>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move { self.exchange(request).await.map_err(CallFailure) })
    }
}

impl TokenEndpoint {
    /// Brings the answer into the standard's form: what succeeded is 200, what carries `error` is 400.
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let (head, form) = request.into_parts();
        let url = Url::parse(&head.uri.to_string()).map_err(|_| ConnectorError::Malformed("our own token URL"))?;
        let call = Call::new("POST", url).header("content-type", "application/x-www-form-urlencoded").body(form);
        let reply = self.0.send(call).await?;
        if let Some(error) = reply.unavailable() {
            return Err(error);
        }
        let tells_error = serde_json::from_slice::<ErrorMember>(&reply.body).is_ok();
        let status = match (reply.is_success(), tells_error) {
            (_, true) => http::StatusCode::BAD_REQUEST,
            (true, false) => http::StatusCode::OK,
            (false, false) => return Err(ConnectorError::unavailable(format!("answered {}", reply.status))),
        };
        let mut response = http::Response::new(reply.body.to_vec());
        *response.status_mut() = status;
        Ok(response)
    }
}

#[derive(Deserialize)]
struct ErrorMember {
    #[serde(rename = "error")]
    _error: String,
}

/// Why an exchange failed, without the provider's words.
enum Failure {
    Call(ConnectorError),
    GrantRejected,
    Refused(&'static str),
    NotUnderstood,
}

impl Failure {
    fn of(error: RequestTokenError<CallFailure, BasicErrorResponse>) -> Self {
        match error {
            RequestTokenError::Request(CallFailure(error)) => Self::Call(error),
            RequestTokenError::Parse(..) | RequestTokenError::Other(_) => Self::NotUnderstood,
            RequestTokenError::ServerResponse(response) => Self::told(&response),
        }
    }

    /// What an answer that carries `error` says.
    fn told(response: &BasicErrorResponse) -> Self {
        match response.error() {
            BasicErrorResponseType::InvalidGrant => Self::GrantRejected,
            BasicErrorResponseType::InvalidClient => Self::Refused("invalid_client"),
            BasicErrorResponseType::InvalidRequest => Self::Refused("invalid_request"),
            BasicErrorResponseType::InvalidScope => Self::Refused("invalid_scope"),
            BasicErrorResponseType::UnauthorizedClient => Self::Refused("unauthorized_client"),
            BasicErrorResponseType::UnsupportedGrantType => Self::Refused("unsupported_grant_type"),
            // GitHub has words of its own for what the standard calls invalid_grant and invalid_client.
            BasicErrorResponseType::Extension(own) => match own.as_str() {
                "bad_verification_code" | "bad_refresh_token" => Self::GrantRejected,
                "incorrect_client_credentials" => Self::Refused("incorrect_client_credentials"),
                "redirect_uri_mismatch" => Self::Refused("redirect_uri_mismatch"),
                "unverified_user_email" => Self::Refused("unverified_user_email"),
                _ => Self::Refused("another error"),
            },
        }
    }
}

/// A token endpoint's answer as it is written; more tolerant than the standard.
#[derive(Debug, Deserialize, Serialize)]
struct WireAnswer {
    access_token: AccessToken,
    #[serde(default)]
    token_type: WireTokenType,
    #[serde(default)]
    refresh_token: Option<RefreshToken>,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<u64>,
    #[serde(default, deserialize_with = "seconds")]
    refresh_token_expires_in: Option<u64>,
    #[serde(default, deserialize_with = "scopes")]
    scope: Option<Vec<Scope>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
struct WireTokenType(Option<String>);

impl oauth2::TokenType for WireTokenType {}

impl TokenResponse for WireAnswer {
    type TokenType = WireTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &WireTokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in.map(Duration::from_secs)
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        self.scope.as_ref()
    }
}

impl WireAnswer {
    fn understand(self) -> Result<TokenAnswer, ConnectorError> {
        let scope = self.scope.as_ref().map(|scopes| scopes.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(" "));
        Ok(TokenAnswer {
            access: Secret::new(self.access_token.into_secret())
                .ok_or(ConnectorError::Malformed("an empty access token"))?,
            refresh: self.refresh_token.and_then(|token| Secret::new(token.into_secret())),
            token_type: self.token_type.0,
            scope: scope.filter(|scope| !scope.is_empty()),
            expires_in: self.expires_in,
            refresh_expires_in: self.refresh_token_expires_in,
        })
    }
}

/// Seconds as a number or as digits; unknown if it is anything else.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_u64(),
        Value::String(digits) => digits.trim().parse().ok(),
        _ => None,
    })
}

/// Scopes as a text, separated by spaces or commas, or as a list.
fn scopes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Scope>>, D::Error> {
    let split = |text: &str| -> Vec<Scope> {
        text.split([' ', ',']).filter(|word| !word.is_empty()).map(|word| Scope::new(word.to_owned())).collect()
    };
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(split(&text)),
        Value::Array(words) => Some(words.iter().filter_map(Value::as_str).flat_map(split).collect()),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
