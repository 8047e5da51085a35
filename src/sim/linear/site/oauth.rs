//! The authorization page and the token endpoint.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{CLIENT_ID, CLIENT_SECRET, Linear};
use crate::{
    crypto::hmac::sha256,
    model::clock::EpochMs,
    sim::world::{
        call::{Answer, Call, Credentials, with_query},
        site::Scene,
        visit::Choice,
    },
};

const SCOPES: [&str; 8] = [
    "read",
    "write",
    "issues:create",
    "comments:create",
    "timeSchedule:write",
    "admin",
    "app:assignable",
    "app:mentionable",
];

#[derive(Debug)]
pub(super) struct Code {
    workspace: u32,
    person: u32,
    redirect_uri: String,
    challenge: Option<(String, bool)>,
    scope: Vec<String>,
    at: EpochMs,
}

/// What a person allowed the app in a workspace.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub workspace: u32,
    pub person: u32,
    pub scope: Vec<String>,
    /// Access tokens that live, and until when: one, or more while old ones survive.
    access: Vec<(String, EpochMs)>,
    refresh: String,
    /// The refresh token before, when it was rotated away, and what was answered.
    before: Option<(String, EpochMs, Value)>,
}

impl Linear {
    /// `GET /oauth/authorize`
    pub(super) fn authorization_page(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        if call.parameter("client_id") != Some(CLIENT_ID) {
            return Answer::refusal("Invalid client", "There is no such application.");
        }
        let Some(redirect_uri) = call.parameter("redirect_uri").filter(|uri| scene.is_registered(uri)) else {
            return Answer::refusal("Invalid redirect_uri", "The redirect_uri is not one of the application's.");
        };
        if call.parameter("response_type") != Some("code") {
            return Answer::refusal("Invalid request", "response_type must be code.");
        }
        let scope: Vec<String> = call.parameter("scope").unwrap_or("read").split(',').map(str::to_owned).collect();
        if let Some(wrong) = scope.iter().find(|scope| !SCOPES.contains(&scope.as_str())) {
            return Answer::refusal("Invalid scope", &format!("{wrong} is no scope; scopes are separated by commas."));
        }
        if !matches!(call.parameter("actor"), None | Some("user" | "app" | "application")) {
            return Answer::refusal("Invalid actor", "The actor is user or app.");
        }
        let challenge = match (call.parameter("code_challenge"), call.parameter("code_challenge_method")) {
            (None, None) => None,
            (Some(challenge), Some("S256")) if challenge.len() == 43 => Some((challenge.to_owned(), true)),
            (Some(challenge), None | Some("plain")) => Some((challenge.to_owned(), false)),
            _ => return Answer::refusal("Invalid request", "The code challenge cannot be used."),
        };
        let offers = [Choice::Approve, Choice::Deny, Choice::Close];
        let visit = match scene.ambient.visit.on(call, "Authorize Signalbox (simulated Linear)", &offers) {
            Ok(visit) => visit,
            Err(page) => return page,
        };
        let state = call.parameter("state").filter(|_| !visit.forget_state).map(|state| ("state", state));
        match visit.choice {
            Choice::Deny => {
                let error = [("error", "access_denied"), ("error_description", "The user denied the request")];
                Answer::redirect(&with_query(redirect_uri, error.into_iter().chain(state)))
            }
            Choice::Close | Choice::Request => Answer::page(200, "Window closed", "<p>Nothing was authorized.</p>"),
            Choice::Approve => {
                let code = scene.dice.hex(40);
                scene.note_issued(&code);
                let details = Code {
                    workspace: visit.account,
                    person: visit.person,
                    redirect_uri: redirect_uri.to_owned(),
                    challenge,
                    scope,
                    at: scene.now,
                };
                self.codes.insert(code.clone(), details);
                Answer::redirect(&with_query(redirect_uri, [("code", code.as_str())].into_iter().chain(state)))
            }
        }
    }

    /// `POST /oauth/token`
    pub(super) fn token(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let Some(fields) = call.form() else {
            return Answer::oauth_error(400, "invalid_request", "The body must be application/x-www-form-urlencoded");
        };
        let field = |name: &str| fields.get(name).map(String::as_str);
        let (id, secret) = match call.credentials() {
            Credentials::None => (field("client_id").map(str::to_owned), field("client_secret").map(str::to_owned)),
            Credentials::Basic(id, secret) => (Some(id), Some(secret)),
            _ => return Answer::oauth_error(400, "invalid_request", "The token endpoint takes no bearer token"),
        };
        let public = secret.is_none() && field("code_verifier").is_some();
        if id.as_deref() != Some(CLIENT_ID) || (secret.as_deref() != Some(CLIENT_SECRET) && !public) {
            return Answer::oauth_error(401, "invalid_client", "Client authentication failed");
        }
        let result = match field("grant_type") {
            Some("authorization_code") => self.trade_code(&fields, scene),
            Some("refresh_token") => self.refresh(field("refresh_token"), scene),
            Some(_) => Err(("unsupported_grant_type", "The grant type is not supported")),
            None => Err(("invalid_request", "grant_type is missing")),
        };
        match result {
            Ok(tokens) => {
                scene.accepted_as = Some("client");
                Answer::json(200, &tokens)
            }
            Err((error, description)) => Answer::oauth_error(400, error, description),
        }
    }

    fn trade_code(
        &mut self,
        fields: &std::collections::BTreeMap<String, String>,
        scene: &mut Scene<'_>,
    ) -> Result<Value, (&'static str, &'static str)> {
        let field = |name: &str| fields.get(name).map(String::as_str);
        let code = field("code").and_then(|code| self.codes.remove(code));
        let code = code.ok_or(("invalid_grant", "The authorization code is invalid or was used"))?;
        let age = u64::try_from(scene.now.0 - code.at.0).unwrap_or(0);
        if age > self.knobs.code_lifetime_s * 1000 {
            return Err(("invalid_grant", "The authorization code has expired"));
        }
        if field("redirect_uri") != Some(code.redirect_uri.as_str()) {
            return Err(("invalid_grant", "redirect_uri differs from the authorization request's"));
        }
        let verifier = field("code_verifier");
        let is_proved = match &code.challenge {
            None => verifier.is_none(),
            Some((challenge, false)) => verifier == Some(challenge.as_str()),
            Some((challenge, true)) => {
                verifier.is_some_and(|verifier| URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes())) == *challenge)
            }
        };
        if !is_proved {
            return Err(("invalid_grant", "The code verifier does not match"));
        }
        let mut grant = Grant {
            workspace: code.workspace,
            person: code.person,
            scope: code.scope,
            access: Vec::new(),
            refresh: String::new(),
            before: None,
        };
        let answer = self.next_pair(&mut grant, scene);
        self.grants.push(grant);
        Ok(answer)
    }

    fn refresh(&mut self, asked: Option<&str>, scene: &mut Scene<'_>) -> Result<Value, (&'static str, &'static str)> {
        const DEAD: (&str, &str) = ("invalid_grant", "The refresh token is invalid");
        let asked = asked.ok_or(("invalid_request", "refresh_token is missing"))?;
        let grace_ms = i64::try_from(self.knobs.refresh_grace_s).unwrap_or(0) * 1000;
        for grant in &self.grants {
            if let Some((before, at, answer)) = &grant.before
                && before == asked
                && scene.now.0 - at.0 < grace_ms
            {
                return Ok(answer.clone());
            }
        }
        let at = self.grants.iter().position(|grant| grant.refresh == asked).ok_or(DEAD)?;
        let mut grant = self.grants.remove(at);
        let old = grant.refresh.clone();
        if !self.knobs.old_access_survives {
            grant.access.clear();
        }
        let answer = self.next_pair(&mut grant, scene);
        grant.before = Some((old, scene.now, answer.clone()));
        self.grants.push(grant);
        Ok(answer)
    }

    fn next_pair(&self, grant: &mut Grant, scene: &mut Scene<'_>) -> Value {
        let access = format!("lin_oauth_{}", scene.dice.hex(64));
        scene.note_issued(&access);
        grant.refresh = scene.issue("lin_refresh_", 40);
        let lifetime = self.knobs.token_lifetime_s;
        grant.access.push((access.clone(), scene.now.plus(Duration::from_secs(lifetime))));
        let scope = if self.knobs.scope_as_array { json!(grant.scope) } else { json!(grant.scope.join(" ")) };
        json!({"access_token": access, "token_type": "Bearer", "expires_in": lifetime, "refresh_token": grant.refresh,
            "scope": scope})
    }

    /// The grant of an access token that lives.
    pub(super) fn grant_of(&self, token: &str, now: EpochMs) -> Option<&Grant> {
        let lives = |grant: &&Grant| grant.access.iter().any(|(access, until)| access == token && *until > now);
        self.grants.iter().find(lives)
    }

    /// `POST /oauth/revoke`
    pub(super) fn revoke(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let fields = call.form().unwrap_or_default();
        let given = ["access_token", "refresh_token", "token"].iter().find_map(|name| fields.get(*name).cloned());
        let token = match (call.credentials(), given) {
            (Credentials::Bearer(token), None) | (Credentials::None, Some(token)) => token,
            (Credentials::None, None) => return Answer::oauth_error(401, "unauthorized", "No token was given"),
            _ => return Answer::oauth_error(400, "invalid_request", "Give the token either as bearer or in the form"),
        };
        let is_it = |grant: &Grant| grant.refresh == token || grant.access.iter().any(|(access, _)| *access == token);
        let Some(at) = self.grants.iter().position(is_it) else {
            return Answer::oauth_error(400, "invalid_request", "The token was revoked already");
        };
        let grant = self.grants.remove(at);
        scene.accepted_as = Some("grant");
        if self.knobs.tell_of_own_revocation {
            let facts = self.fresh_facts(grant.workspace, scene);
            scene.tell("linear:oauth-app.revoked", facts, Value::Null);
        }
        Answer::json(200, &json!({}))
    }
}
