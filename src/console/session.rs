//! `/console/login`, `/console/session`, `/console/sign-out`: a browser presents a key, and goes.
//!
//! **Invariants**: the key is in no page, log or address; whoever presents wrong ones again and again waits; the way back
//! after signing in leads to a page of ours, whatever is asked for.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use askama::Template;
use serde_json::{Value, json};

use super::{
    layout::{Layout, base},
    render,
    visitor::Visitor,
};
use crate::routes::{
    Answer, ApiBody, Caller, Gateway, Problem, Query, error_codes as codes,
    session::{self, make_cookie},
};

/// Who signs in again and again with the same name is who they say: nothing depends on it.
#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    layout: Layout,
    next: String,
    user: String,
    refused: Option<&'static str>,
}

/// `GET /console/login[?next=]`: the sign-in page.
pub async fn form(request: HttpRequest, query: Query) -> Answer {
    render(&LoginPage {
        layout: Layout::outside(&request, "Sign in"),
        next: next_page(query.get("next")),
        user: String::new(),
        refused: None,
    })
}

/// What is presented.
struct Presented {
    key: String,
    user: Option<String>,
    next: String,
    is_form: bool,
}

/// `GET /console/session`: who is signed in.
pub async fn tell(visitor: Visitor) -> Answer {
    Ok(HttpResponse::Ok().json(about(&visitor.caller)))
}

/// `POST /console/session` `{key, user?}`, as a form or as JSON: signs in.
pub async fn begin(request: HttpRequest, body: ApiBody, gateway: web::Data<Gateway>) -> Answer {
    // A script has no origin; a page of somebody else's has, and must not sign anybody in.
    if request.headers().contains_key(header::ORIGIN) {
        session::refuse_cross_origin(&request, &gateway)?;
    }
    let presented = read(&request, &body)?;
    if presented.user.as_deref().is_some_and(|user| !Caller::is_user_id(user)) {
        return refuse(
            &request,
            presented,
            &codes::INVALID_USER_ID,
            "A name is visible ASCII without spaces, 191 at the most.",
        );
    }
    let Some(key) = gateway.keys.identify_afresh(presented.key.trim()).await? else {
        gateway.brake.refused(&request).await;
        return refuse(&request, presented, &codes::UNAUTHORIZED, "This is no key of this gateway, or it was revoked.");
    };
    let from = request.peer_addr().map(|peer| peer.ip().to_string());
    let caller = Caller { org: key.org.clone(), user: presented.user.clone(), from: from.clone(), session: None, key };
    let cookie = gateway.sessions.begin(&caller.key, presented.user, from).await?;
    let cookie = make_cookie(Some(&cookie), &gateway);
    if presented.is_form {
        let next = format!("{}{}", base(&gateway), presented.next);
        return Ok(HttpResponse::SeeOther().insert_header((header::LOCATION, next)).cookie(cookie).finish());
    }
    Ok(HttpResponse::Ok().cookie(cookie).json(about(&caller)))
}

/// `POST /console/sign-out`: ends the session.
pub async fn end(visitor: Visitor, gateway: web::Data<Gateway>) -> Answer {
    let caller = &visitor.caller;
    if let Some(session) = &caller.session {
        gateway.sessions.end(session, &caller.key, caller.actor()).await?;
    }
    let login = format!("{}/console/login", base(&gateway));
    Ok(HttpResponse::SeeOther()
        .insert_header((header::LOCATION, login))
        .cookie(make_cookie(None, &gateway))
        .cookie(session::make_org_cookie(None, &gateway))
        .finish())
}

fn about(caller: &Caller) -> Value {
    json!({
        "keyId": caller.key.id,
        "orgId": caller.org,
        "user": caller.user,
        "service": caller.is_service(),
        "scope": if caller.key.can_write { "write" } else { "read" },
    })
}

fn read(request: &HttpRequest, body: &ApiBody) -> Result<Presented, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/x-www-form-urlencoded") {
        let fields: Vec<(String, String)> = form_urlencoded::parse(body.bytes()).into_owned().collect();
        let field =
            |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.trim().to_owned());
        return Ok(Presented {
            key: field("key").unwrap_or_default(),
            user: field("user").filter(|user| !user.is_empty()),
            next: next_page(field("next").as_deref()),
            is_form: true,
        });
    }
    let mut members = body.members()?;
    let presented = Presented {
        key: members.required_text("key"),
        user: members.text("user"),
        next: String::new(),
        is_form: false,
    };
    members.finish()?;
    Ok(presented)
}

fn refuse(request: &HttpRequest, presented: Presented, code: &'static codes::Code, why: &'static str) -> Answer {
    if !presented.is_form {
        return Err(Problem::new(code));
    }
    let page = LoginPage {
        layout: Layout::outside(request, "Sign in"),
        next: presented.next,
        user: presented.user.unwrap_or_default(),
        refused: Some(why),
    };
    let mut answer = render(&page)?;
    *answer.status_mut() = StatusCode::from_u16(code.status).unwrap_or(StatusCode::BAD_REQUEST);
    Ok(answer)
}

/// Where to go after signing in: a page of the console, whatever was asked for.
fn next_page(asked_for: Option<&str>) -> String {
    const NO_PAGES: [&str; 3] = ["/login", "/session", "/sign-out"];
    let is_page = |asked_for: &&str| {
        let is_plain =
            asked_for.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') && asked_for.len() <= 2048;
        let below = asked_for.split('?').next().and_then(|path| path.strip_prefix("/console"));
        is_plain
            && below.is_some_and(|below| (below.is_empty() || below.starts_with('/')) && !NO_PAGES.contains(&below))
    };
    asked_for.filter(is_page).unwrap_or("/console").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_leads_to_a_page_of_the_console_and_nowhere_else() {
        for page in ["/console", "/console/events?outcome=dead&x=%2F", "/console/settings", "/console?org=acme"] {
            assert_eq!(next_page(Some(page)), page);
        }
        for elsewhere in [
            "",
            "//evil.test",
            "https://evil.test/console",
            "/console@evil.test",
            "/consoles",
            "/console\\evil",
            "/console/login?next=/console",
            "/console/sign-out",
            "/connections",
            "/console/\r\nset-cookie: a=b",
        ] {
            assert_eq!(next_page(Some(elsewhere)), "/console", "{elsewhere}");
        }
        assert_eq!(next_page(None), "/console");
    }
}
