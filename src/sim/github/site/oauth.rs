//! User tokens: codes, exchange, refresh, checks.
//!
//! **Invariants.** A code is good once, for its lifetime, with its redirect URI and its PKCE verifier. Errors of the
//! exchange are answered with 200, as GitHub does.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{CLIENT_ID, CLIENT_SECRET, GitHub, api::problem, person_json};
use crate::{
    crypto::hmac::sha256,
    model::clock::EpochMs,
    sim::{
        to_the_second,
        world::{
            call::{Answer, Call, Credentials},
            site::Scene,
        },
    },
};

const SIX_MONTHS_S: u64 = 15_897_600;

#[derive(Debug)]
struct Code {
    person: u32,
    redirect_uri: Option<String>,
    challenge: Option<String>,
    at: EpochMs,
}

#[derive(Debug, Clone)]
struct UserToken {
    person: u32,
    expires_at: Option<EpochMs>,
    refresh: Option<String>,
}

/// What people allowed.
#[derive(Debug, Default)]
pub(super) struct Authorizations {
    codes: HashMap<String, Code>,
    tokens: HashMap<String, UserToken>,
}

impl Authorizations {
    /// A new code.
    pub fn code(
        &mut self,
        person: u32,
        redirect_uri: Option<&str>,
        challenge: Option<&str>,
        scene: &mut Scene<'_>,
    ) -> String {
        let code = scene.dice.hex(20);
        scene.note_issued(&code);
        let details = Code {
            person,
            redirect_uri: redirect_uri.map(str::to_owned),
            challenge: challenge.map(str::to_owned),
            at: scene.now,
        };
        self.codes.insert(code.clone(), details);
        code
    }

    /// Whose token it is, if it lives.
    pub fn person_of(&self, token: &str, now: EpochMs) -> Option<u32> {
        let token = self.tokens.get(token)?;
        token.expires_at.is_none_or(|expires_at| expires_at > now).then_some(token.person)
    }

    /// Ends everything a person allowed.
    pub fn revoke(&mut self, person: u32) {
        self.tokens.retain(|_, token| token.person != person);
        self.codes.retain(|_, code| code.person != person);
    }
}

impl GitHub {
    /// `POST /login/oauth/access_token`
    pub(super) fn exchange(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let answer = match self.judge_exchange(call, scene) {
            Ok(tokens) => {
                scene.accepted_as = Some("client");
                tokens
            }
            Err((error, description)) => json!({"error": error, "error_description": description,
                "error_uri": "https://docs.github.com/apps/managing-oauth-apps/troubleshooting"}),
        };
        // Without being asked for JSON, GitHub answers a form.
        if call.headers.get("accept").is_some_and(|accept| accept.contains("json")) {
            Answer::json(200, &answer)
        } else {
            Answer::form(200, &answer)
        }
    }

    fn judge_exchange(&mut self, call: &Call, scene: &mut Scene<'_>) -> Result<Value, (&'static str, &'static str)> {
        const BAD_CLIENT: (&str, &str) =
            ("incorrect_client_credentials", "The client_id and/or client_secret passed are incorrect.");
        const BAD_CODE: (&str, &str) = ("bad_verification_code", "The code passed is incorrect or expired.");
        let fields = call.fields().unwrap_or_default();
        let field = |name: &str| fields.get(name).map(String::as_str);
        if call.credentials() != Credentials::None
            || field("client_id") != Some(CLIENT_ID)
            || field("client_secret") != Some(CLIENT_SECRET)
        {
            return Err(BAD_CLIENT);
        }
        if field("grant_type") == Some("refresh_token") {
            let asked = field("refresh_token");
            let held =
                self.people.tokens.iter().find(|(_, token)| asked.is_some() && token.refresh.as_deref() == asked);
            let Some((access, person)) = held.map(|(access, token)| (access.clone(), token.person)) else {
                return Err(("bad_refresh_token", "The refresh token passed is incorrect or expired."));
            };
            self.people.tokens.remove(&access);
            return Ok(self.issue_user_token(person, scene));
        }
        // A code is spent by the first who shows it, right or wrong.
        let code = field("code").and_then(|code| self.people.codes.remove(code)).ok_or(BAD_CODE)?;
        let lifetime = i64::try_from(self.knobs.code_lifetime_s).unwrap_or(i64::MAX / 1000) * 1000;
        if scene.now.0 - code.at.0 > lifetime {
            return Err(BAD_CODE);
        }
        if code.redirect_uri.as_deref() != field("redirect_uri") {
            return Err((
                "redirect_uri_mismatch",
                "The redirect_uri MUST match the registered callback URL for this application.",
            ));
        }
        let shown = field("code_verifier").map(|verifier| URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes())));
        if code.challenge != shown {
            return Err(BAD_CODE);
        }
        Ok(self.issue_user_token(code.person, scene))
    }

    fn issue_user_token(&mut self, person: u32, scene: &mut Scene<'_>) -> Value {
        let access = scene.issue("ghu_", 36);
        let mut answer = json!({"access_token": access, "scope": "", "token_type": "bearer"});
        let (mut expires_at, mut refresh) = (None, None);
        if self.knobs.expiring_user_tokens {
            let lifetime = self.knobs.user_token_lifetime_s;
            expires_at = Some(scene.now.plus(std::time::Duration::from_secs(lifetime)));
            refresh = Some(scene.issue("ghr_", 76));
            answer["expires_in"] = json!(lifetime);
            answer["refresh_token"] = json!(refresh);
            answer["refresh_token_expires_in"] = json!(SIX_MONTHS_S);
        }
        self.people.tokens.insert(access, UserToken { person, expires_at, refresh });
        answer
    }

    /// `/applications/{client_id}/token` and `/grant`
    pub(super) fn applications(&mut self, call: &Call, what: &str, scene: &mut Scene<'_>) -> Answer {
        if call.credentials() != Credentials::Basic(CLIENT_ID.to_owned(), CLIENT_SECRET.to_owned()) {
            return problem(404, "Not Found");
        }
        scene.accepted_as = Some("client");
        let token = call.json().and_then(|body| body.get("access_token")?.as_str().map(str::to_owned));
        let person = token.as_deref().and_then(|token| self.people.person_of(token, scene.now));
        match (call.method.as_str(), what, token, person) {
            ("POST", "token", Some(token), Some(person)) => {
                let expires_at = self.people.tokens.get(&token).and_then(|token| token.expires_at).map(to_the_second);
                Answer::json(
                    200,
                    &json!({"id": 1, "token": token, "user": person_json(person), "expires_at": expires_at,
                    "app": {"client_id": CLIENT_ID, "name": "Signalbox"}, "scopes": []}),
                )
            }
            ("DELETE", "token", Some(token), Some(_)) => {
                self.people.tokens.remove(&token);
                Answer::empty(204)
            }
            ("DELETE", "grant", Some(_), Some(person)) => {
                self.people.revoke(person);
                Answer::empty(204)
            }
            ("DELETE", ..) => problem(422, "Validation Failed"),
            _ => problem(404, "Not Found"),
        }
    }
}
