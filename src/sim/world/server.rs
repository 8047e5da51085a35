//! The HTTP half of a simulated provider: faults around the site's answers, webhooks to the gateway.
//!
//! **Invariants.** A call is in the journal before the site acts on it. Nothing waits while the state is locked.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use super::{
    admin,
    call::{Answer, Call},
    faults::Fault,
    journal::JournalEntry,
    simulator::Shared,
    site::{Loss, Posting, Sent, Site, merge, surface_of},
};
use crate::{
    model::webhook::Headers,
    sim::{SignedRequest, client::Client, listening, signer::Encoding},
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why a call gets no answer; ends its connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    #[error("told to cut the connection")]
    Told,
    #[error("the call broke off: {0}")]
    Call(#[from] hyper::Error),
    #[error("the answer cannot be sent: {0}")]
    Answer(#[from] hyper::http::Error),
}

/// Serves connections until aborted.
pub(super) async fn accept<S: Site>(listener: TcpListener, shared: Arc<Shared<S>>) {
    listening::accept(listener, "a simulated provider", move |stream| serve(stream, Arc::clone(&shared))).await;
}

async fn serve<S: Site>(stream: TcpStream, shared: Arc<Shared<S>>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delays");
    }
    let service = service_fn(|request| answer(request, Arc::clone(&shared)));
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to a simulated provider ended early");
    }
}

async fn answer<S: Site>(request: Request<Incoming>, shared: Arc<Shared<S>>) -> Result<Response<Body>, Cut> {
    let call = read::<S>(request, &shared.origin).await?;
    if let Some(path) = call.path.strip_prefix("/_sim/") {
        let answer = admin::answer(&shared, &call, path).await;
        return respond(answer, None);
    }
    let (number, fault) = enter(&shared, &call);
    match &fault {
        Some(Fault::Hang) => return std::future::pending().await,
        Some(Fault::Cut) => return Err(Cut::Told),
        Some(Fault::Delay { ms }) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        Some(Fault::Status { status, headers, body }) => {
            let mut answer = if body.is_null() { Answer::empty(*status) } else { Answer::json(*status, body) };
            answer.headers.extend(headers.iter().cloned());
            leave(&shared, number, Some(*status), None);
            return respond(answer, None);
        }
        _ => {}
    }
    let (mut answer, outbox, accepted_as) = shared.on_stage(|site, scene| site.answer(&call, scene));
    let (first, later): (Vec<_>, Vec<_>) = outbox.into_iter().partition(|posting| posting.first);
    for posting in first {
        post(&shared, posting).await;
    }
    let answered = (!matches!(fault, Some(Fault::LoseAnswer | Fault::HangAfter))).then_some(answer.status);
    leave(&shared, number, answered, accepted_as);
    let after = Arc::clone(&shared);
    tokio::spawn(async move {
        for posting in later {
            post(&after, posting).await;
        }
    });
    let mut pause = None;
    match fault {
        Some(Fault::LoseAnswer) => return Err(Cut::Told),
        Some(Fault::HangAfter) => return std::future::pending().await,
        Some(Fault::Malformed) => answer.body.truncate(answer.body.len() / 2),
        Some(Fault::Without { members }) => {
            edit(&mut answer, |body| members.iter().for_each(|name| drop(body.remove(name))));
        }
        Some(Fault::With { members }) => edit(&mut answer, |body| body.extend(members)),
        Some(Fault::Drip { ms }) => pause = Some(Duration::from_millis(ms)),
        _ => {}
    }
    respond(answer, pause)
}

async fn read<S: Site>(request: Request<Incoming>, origin: &str) -> Result<Call, Cut> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let (surface, path) = surface_of(S::API_BASE, head.uri.path());
    let base = head.uri.path().strip_suffix(path).unwrap_or_default();
    let decode = |segment: &str| {
        // A path segment is decoded like a form's value, but for `+`.
        let field = format!("x={}", segment.replace('+', "%2B").replace('&', "%26"));
        form_urlencoded::parse(field.as_bytes()).next().map_or_else(String::new, |(_, value)| value.into_owned())
    };
    let query = head.uri.query().unwrap_or_default();
    Ok(Call {
        method: head.method.as_str().to_owned(),
        surface,
        path: path.to_owned(),
        segments: path.split('/').skip(1).map(decode).collect(),
        query: form_urlencoded::parse(query.as_bytes()).map(|(k, v)| (k.into_owned(), v.into_owned())).collect(),
        headers: head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect::<Headers>(),
        body,
        origin: origin.to_owned(),
        base: format!("{origin}{base}"),
    })
}

fn enter<S: Site>(shared: &Shared<S>, call: &Call) -> (usize, Option<Fault>) {
    let mut inner = shared.lock();
    let number = inner.journal.len();
    let fault = inner.faults.strike(&call.method, &call.path);
    let at = inner.by_its_clock(shared.clock.now());
    inner.journal.push(JournalEntry {
        number,
        at,
        call: call.clone(),
        accepted_as: None,
        answered: None,
        fault: fault.as_ref().map(Fault::name),
    });
    drop(inner);
    shared.changed();
    (number, fault)
}

fn leave<S: Site>(shared: &Shared<S>, number: usize, answered: Option<u16>, accepted_as: Option<&'static str>) {
    if let Some(entry) = shared.lock().journal.get_mut(number) {
        entry.answered = answered;
        entry.accepted_as = accepted_as;
    }
    shared.changed();
}

fn edit(answer: &mut Answer, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    if let Ok(Value::Object(mut body)) = serde_json::from_slice(&answer.body) {
        change(&mut body);
        answer.body = Value::Object(body).to_string().into();
    }
}

fn respond(answer: Answer, pause: Option<Duration>) -> Result<Response<Body>, Cut> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    let body = match pause {
        None => Full::new(answer.body).boxed_unsync(),
        Some(pause) => drip(answer.body, pause),
    };
    Ok(response.body(body)?)
}

fn drip(body: Bytes, pause: Duration) -> Body {
    let drops = stream::unfold(body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let drop = rest.split_to(1);
        Some((Ok(Frame::data(drop)), rest))
    });
    StreamBody::new(drops).boxed_unsync()
}

/// Sends a webhook; how its first try ended, `None` if the provider sends nothing of the kind now. Later tries go on by
/// themselves.
pub(super) async fn post<S: Site>(shared: &Arc<Shared<S>>, posting: Posting) -> Option<Sent> {
    if !shared.lock().site.sends(&posting.kind, &posting.facts) && posting.verbatim.is_none() {
        return None;
    }
    if is_disabled(shared) {
        return None;
    }
    let request = match &posting.verbatim {
        Some(request) => request.clone(),
        None => sign(shared, &posting, false)?,
    };
    let sent = try_once(shared, &posting, &request).await;
    let retries = shared.lock().ambient.retries_ms.clone();
    if retries.is_empty() || !S::MANNERS.tries_again(&sent) || posting.verbatim.is_some() {
        count(shared, sent.succeeded(S::MANNERS));
    } else {
        let shared = Arc::downgrade(shared);
        tokio::spawn(async move {
            let mut succeeded = false;
            for wait in retries {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                let Some(shared) = shared.upgrade() else { return };
                let Some(request) = sign(&shared, &posting, true) else { return };
                let again = try_once(&shared, &posting, &request).await;
                succeeded = again.succeeded(S::MANNERS);
                if !S::MANNERS.tries_again(&again) {
                    break;
                }
            }
            if let Some(shared) = shared.upgrade() {
                count(&shared, succeeded);
            }
        });
    }
    Some(sent)
}

/// Whether so many webhooks failed in a row that it sends no more.
fn is_disabled<S: Site>(shared: &Shared<S>) -> bool {
    let inner = shared.lock();
    inner.ambient.disable_after.is_some_and(|most| inner.failed >= most)
}

fn count<S: Site>(shared: &Shared<S>, succeeded: bool) {
    let mut inner = shared.lock();
    inner.failed = if succeeded { 0 } else { inner.failed.saturating_add(1) };
}

fn sign<S: Site>(shared: &Shared<S>, posting: &Posting, again: bool) -> Option<SignedRequest> {
    let mut draft = (S::PROVIDER.write)(&posting.kind, &posting.facts)?;
    merge(&mut draft.payload, &posting.edit);
    crate::sim::filler::lengthen(&mut draft.payload, draft.padding, posting.facts.body_bytes, posting.facts.seed);
    if again {
        let mut inner = shared.lock();
        let now = inner.by_its_clock(shared.clock.now());
        S::restamp(&mut draft, now, &mut inner.dice);
    }
    let body = draft.payload.to_string().into_bytes();
    Some(S::PROVIDER.signing.sign(draft.headers, body, S::PROVIDER.secret.as_bytes(), Encoding::Json))
}

async fn try_once<S: Site>(shared: &Arc<Shared<S>>, posting: &Posting, request: &SignedRequest) -> Sent {
    let (gateway, loss, timeout) = {
        let inner = shared.lock();
        (inner.gateway.clone(), inner.ambient.loss, inner.ambient.timeout_ms)
    };
    let here = |gateway: String| gateway.trim_start_matches("http://").replace("localhost", "127.0.0.1").parse().ok();
    let address = gateway.and_then(here);
    let answered = match address {
        Some(address) if loss == Loss::None => {
            let mut client = Client::new(address).with_limit(Duration::from_millis(timeout));
            client.post_webhook(S::PROVIDER.slug, request).await.ok()
        }
        _ => None,
    };
    let (sent, more, _) = {
        let mut inner = shared.lock();
        let at = inner.by_its_clock(shared.clock.now());
        let sent = Sent {
            number: inner.sent.len(),
            kind: posting.kind.clone(),
            external_id: posting.facts.external_id.clone(),
            resource_id: posting.facts.resource_id.clone(),
            delivery_id: posting.facts.delivery_id.clone(),
            at,
            redelivery: posting.verbatim.is_some(),
            status: answered.as_ref().map(|answer| answer.status),
            answer: answered.map_or(Value::Null, |answer| answer.json()),
            loss,
        };
        inner.sent.push(sent.clone());
        inner.on_stage(shared.clock.now(), &shared.origin, move |site, scene| {
            site.sent(&sent, request, scene);
            sent
        })
    };
    debug_assert!(more.is_empty(), "learning of an answer causes no webhook");
    shared.changed();
    sent
}
