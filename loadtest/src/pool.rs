//! Requests made before the clock starts, so that the generator's cost is little more than a write and a read.
//!
//! **Owns** templates: whole requests in which the tenant's ids, a number, a time and the signature are written over;
//! and, as far as memory is given, requests that are signed beforehand.
//!
//! **Invariants.** Every event has its own delivery id and its own body; copies of an event are the same bytes but for
//! a signed time.

use std::{
    fmt::Write,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, ensure};
use signalbox::{
    crypto::hmac::sha256_hex_of_parts,
    model::clock::{Clock, SystemClock},
    sim::{self, Dice, SimulatedProvider},
};

use crate::{
    event_id,
    scenario::{Events, Size, Tenants},
    tenant_ids::{self, DIGITS},
    zipf::Zipf,
};

/// The kinds in the mix of a provider.
pub fn kinds(provider: &SimulatedProvider) -> &'static [&'static str] {
    match provider.slug {
        "github" => &["github:push", "github:pull-request.opened", "github:pull-request.merged", "github:issue.opened"],
        "vercel" => &["vercel:deployment.created", "vercel:deployment.succeeded", "vercel:deployment.error"],
        "linear" => &["linear:issue.created", "linear:issue.updated", "linear:comment.created"],
        _ => &["sentry:issue.created", "sentry:issue.resolved", "sentry:error"],
    }
}

/// Ready requests of one stream.
#[derive(Debug)]
pub struct Pool {
    stream: u16,
    templates: Vec<Template>,
    /// Which template an event is of, by its number.
    mix: Vec<usize>,
    zipf: Zipf,
    base: usize,
    resources: usize,
    bad_signatures: bool,
    presigned: Vec<Vec<u8>>,
    signed_late: AtomicU64,
}

/// A whole request and the places in it that change.
#[derive(Debug)]
struct Template {
    provider: &'static SimulatedProvider,
    bytes: Vec<u8>,
    body: usize,
    signature: usize,
    /// Where the delivery id stands; nowhere for Sentry.
    delivery_ids: Vec<usize>,
    /// Where a number of our own fits into the body's prose.
    number: usize,
    /// Where the digits of the installation's ids and of the resource's id stand.
    installations: Vec<usize>,
    resources: Vec<usize>,
    /// Where Linear's signed time stands, milliseconds.
    times: Vec<usize>,
    /// The header that Sentry's digest covers beside the body.
    event_header: String,
}

const NUMBER: usize = 16;

/// What a pool is for.
#[derive(Debug, Clone, Copy)]
pub struct PoolOf<'a> {
    /// Where it is posted to.
    pub address: SocketAddr,
    /// Its place in the ledger.
    pub stream: u16,
    /// The mix.
    pub events: &'a Events,
    /// The phase's sizes.
    pub sizes: &'a [Size],
    /// Whose events, and the place of that group.
    pub tenants: (usize, &'a Tenants),
    /// How unevenly they post.
    pub zipf: f64,
    /// Whether signatures are wrong.
    pub bad_signatures: bool,
}

impl Pool {
    /// Prepares templates and, for at most `count` events, whole requests.
    pub fn prepare(of: PoolOf<'_>, count: usize) -> anyhow::Result<Self> {
        let PoolOf { address, stream, events, sizes, tenants: (place, tenants), zipf, bad_signatures } = of;
        let base = tenant_ids::base_of_group(place);
        let mut templates = Vec::new();
        let mut mix = Vec::new();
        for (slug, share) in &events.providers {
            let provider = sim::find(slug).context("an unknown provider")?;
            for size in sizes {
                for kind in kinds(provider) {
                    let share = (*share as usize) * size.weight as usize * (12 / kinds(provider).len());
                    mix.extend(std::iter::repeat_n(templates.len(), share));
                    templates.push(Template::new(provider, kind, address, size.bytes, base)?);
                }
            }
        }
        ensure!(!mix.is_empty(), "a mix without shares");
        let mut dice = Dice::new(7);
        for place in (1..mix.len()).rev() {
            mix.swap(place, dice.between(0, place as u64 + 1) as usize);
        }
        let zipf = Zipf::new(tenants.installations * tenants.resources, zipf);
        let mean = mix.iter().filter_map(|at| templates.get(*at)).map(|one| one.bytes.len()).sum::<usize>() / mix.len();
        let timed = templates.iter().any(|template| !template.times.is_empty() || template.delivery_ids.is_empty());
        let presigned = if timed { 0 } else { count.min((events.pool_megabytes << 20) / mean.max(1)) };
        let resources = tenants.resources;
        let mut pool = Self {
            stream,
            templates,
            mix,
            zipf,
            base,
            resources,
            bad_signatures,
            presigned: Vec::new(),
            signed_late: AtomicU64::new(0),
        };
        pool.presigned = pool.presign(presigned)?;
        Ok(pool)
    }

    fn presign(&self, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = count.div_ceil(threads).max(1);
        let shares = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| (thread * share).min(count)..((thread + 1) * share).min(count))
                .map(|numbers| {
                    scope.spawn(move || {
                        let requests = numbers.map(|number| {
                            let mut request = Vec::new();
                            self.render(number as u64, &mut request);
                            request
                        });
                        requests.collect::<Vec<_>>()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().map_err(|_| anyhow::anyhow!("preparing panicked")))
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        Ok(shares.into_iter().flatten().collect())
    }

    /// Writes the request of the event with that number into `buffer`; answers the digest by which Sentry's events are
    /// known.
    pub fn write(&self, number: u64, buffer: &mut Vec<u8>) -> Option<[u8; 64]> {
        if let Some(request) = self.presigned.get(number as usize) {
            buffer.clear();
            buffer.extend_from_slice(request);
            return None;
        }
        self.signed_late.fetch_add(1, Ordering::Relaxed);
        self.render(number, buffer)
    }

    fn render(&self, number: u64, buffer: &mut Vec<u8>) -> Option<[u8; 64]> {
        let template = self.templates.get(*self.mix.get(number as usize % self.mix.len())?)?;
        buffer.clear();
        buffer.extend_from_slice(&template.bytes);
        let resource = self.zipf.draw(self.stream, number);
        let (installation, resource) = (self.base + resource / self.resources, self.base + resource);
        write_digits(buffer, &template.installations, installation);
        write_digits(buffer, &template.resources, resource);
        let id = if template.provider.slug == "vercel" {
            event_id::short(self.stream, number)
        } else {
            event_id::uuid(self.stream, number)
        };
        for at in &template.delivery_ids {
            write_at(buffer, *at, id.as_bytes());
        }
        let in_body = event_id::short(self.stream, number);
        write_at(buffer, template.number, in_body.trim_start_matches("evt_").as_bytes());
        if !template.times.is_empty() {
            let now = SystemClock.now().0.to_string();
            for at in &template.times {
                write_at(buffer, *at, now.as_bytes());
            }
        }
        let body = buffer.get(template.body..)?;
        let mut signature = template.provider.signing.signature(body, template.provider.secret.as_bytes());
        if self.bad_signatures {
            let last = if signature.ends_with('0') { "1" } else { "0" };
            signature.replace_range(signature.len() - 1.., last);
        }
        let digest = (template.provider.slug == "sentry")
            .then(|| {
                let parts = [b"sentry", template.event_header.as_bytes(), body];
                sha256_hex_of_parts(&parts).as_bytes().try_into().ok()
            })
            .flatten();
        write_at(buffer, template.signature, signature.as_bytes());
        digest
    }

    /// Requests that were signed as they were sent.
    pub fn signed_late(&self) -> u64 {
        self.signed_late.load(Ordering::Relaxed)
    }

    /// Mean bytes of a body.
    pub fn body_bytes(&self) -> f64 {
        let bytes: usize =
            self.mix.iter().filter_map(|at| self.templates.get(*at)).map(|one| one.bytes.len() - one.body).sum();
        bytes as f64 / self.mix.len() as f64
    }
}

fn write_at(buffer: &mut [u8], at: usize, text: &[u8]) {
    if let Some(place) = buffer.get_mut(at..at + text.len()) {
        place.copy_from_slice(text);
    }
}

fn write_digits(buffer: &mut [u8], places: &[usize], number: usize) {
    let mut digits = [b'0'; DIGITS];
    let mut left = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    for at in places {
        write_at(buffer, *at, &digits);
    }
}

impl Template {
    fn new(
        provider: &'static SimulatedProvider,
        kind: &str,
        address: SocketAddr,
        body_bytes: usize,
        base: usize,
    ) -> anyhow::Result<Self> {
        let mut facts = tenant_ids::facts(provider, base, base, body_bytes as u64 ^ 0x5eed);
        facts.body_bytes = body_bytes;
        facts.delivery_id = if provider.slug == "vercel" { event_id::short(0, 0) } else { event_id::uuid(0, 0) };
        let secret = provider.secret.as_bytes();
        let request = provider.event(kind, &facts, secret).with_context(|| format!("nobody sends {kind}"))?;
        let mut head = format!("POST /webhooks/{} HTTP/1.1\r\nhost: {address}\r\n", provider.slug);
        for (name, value) in &request.headers {
            // Writing to a string does not fail.
            write!(head, "{name}: {value}\r\n").ok();
        }
        write!(head, "content-length: {}\r\n\r\n", request.body.len()).ok();
        let body = head.len();
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&request.body);
        let prefixes = tenant_ids::prefixes(provider);
        let digits_of = |prefix: &str| -> Vec<usize> {
            let found = places_of(&bytes, format!("{prefix}{base:07}").as_bytes());
            found.into_iter().map(|at| at + prefix.len()).collect()
        };
        let mut installations = digits_of(prefixes.installation);
        installations.extend(prefixes.alternate.map(digits_of).unwrap_or_default());
        let time = facts.at.0.to_string();
        let event = request.header("sentry-hook-resource").unwrap_or_default().to_owned();
        let signature = request.header(provider.signing.header).context("no signature")?;
        Ok(Self {
            provider,
            body,
            signature: *places_of(&bytes, signature.as_bytes()).first().context("no signature in the head")?,
            delivery_ids: if provider.slug == "sentry" {
                Vec::new()
            } else {
                places_of(&bytes, facts.delivery_id.as_bytes())
            },
            number: prose(&bytes, body).with_context(|| format!("{kind} has no room for a number"))?,
            installations,
            resources: digits_of(prefixes.resource),
            times: if provider.slug == "linear" { places_of(&bytes, time.as_bytes()) } else { Vec::new() },
            event_header: event,
            bytes,
        })
    }
}

fn places_of(bytes: &[u8], text: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(text.len()).enumerate();
    windows.filter(|(_, window)| *window == text).map(|(at, _)| at).collect()
}

/// The longest stretch of small letters and blanks: within prose that nobody reads.
fn prose(bytes: &[u8], from: usize) -> Option<usize> {
    let (mut best, mut begin) = ((0, 0), from);
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        if byte.is_ascii_lowercase() || *byte == b' ' {
            best = best.max((at + 1 - begin, begin));
        } else {
            begin = at + 1;
        }
    }
    (best.0 >= NUMBER).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    fn group(installations: usize, resources: usize) -> Tenants {
        toml::from_str(&format!(
            "name = 'a'\ninstallations = {installations}\nresources = {resources}\nzipf = {}",
            if installations > 1 { 1.0 } else { 0.0 }
        ))
        .expect("tenants")
    }

    fn pool(events: &Events, tenants: &Tenants, bad_signatures: bool, count: usize) -> Pool {
        let of = PoolOf {
            address: ([127, 0, 0, 1], 80).into(),
            stream: 3,
            events,
            sizes: &events.sizes,
            tenants: (0, tenants),
            zipf: tenants.zipf,
            bad_signatures,
        };
        Pool::prepare(of, count).expect("a pool")
    }

    fn mixed() -> Events {
        let providers = sim::PROVIDERS.iter().map(|provider| (provider.slug.to_owned(), 1)).collect();
        Events {
            providers,
            sizes: vec![Size { bytes: 0, weight: 1 }, Size { bytes: 9000, weight: 2 }],
            pool_megabytes: 1,
        }
    }

    /// Whether the signature in the head is that of the body, by the provider in the path.
    fn is_genuine(request: &[u8]) -> bool {
        let at = places_of(request, b"\r\n\r\n")[0];
        let head = std::str::from_utf8(&request[..at]).expect("text");
        let slug = head.split(['/', ' ']).nth(3).expect("a path");
        let provider = sim::find(slug).expect(slug);
        let signature = provider.signing.signature(&request[at + 4..], provider.secret.as_bytes());
        assert!(head.contains(&format!("content-length: {}", request.len() - at - 4)), "{head}");
        head.contains(&signature)
    }

    #[test]
    fn every_request_of_every_provider_is_genuine_and_unlike_the_others() {
        let (events, tenants) = (mixed(), group(50, 2));
        let pool = pool(&events, &tenants, false, 10);
        let mut bodies = HashSet::new();
        let mut slugs: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for number in 0..400 {
            let mut request = Vec::new();
            let digest = pool.write(number, &mut request);
            assert!(is_genuine(&request), "{number}");
            assert_eq!(digest.is_some(), request.starts_with(b"POST /webhooks/sentry"));
            *slugs.entry(request[..20].to_vec()).or_default() += 1;
            let body = places_of(&request, b"\r\n\r\n")[0] + 4;
            serde_json::from_slice::<serde_json::Value>(&request[body..]).expect("JSON");
            assert!(bodies.insert(request[body..].to_vec()), "{number} has another's body");
        }
        assert_eq!(slugs.len(), 4, "{slugs:?}");
    }

    #[test]
    fn an_event_is_of_the_tenant_it_was_drawn_for() {
        let (events, tenants) = (Events::default(), group(40, 3));
        let pool = pool(&events, &tenants, false, 0);
        for number in 0..200 {
            let mut request = Vec::new();
            pool.write(number, &mut request);
            let drawn = Zipf::new(120, 1.0).draw(3, number);
            let facts = tenant_ids::facts(&sim::github::PROVIDER, 1_000_000 + drawn / 3, 1_000_000 + drawn, 0);
            for id in [&facts.external_id, &facts.resource_id] {
                assert!(!places_of(&request, id.as_bytes()).is_empty(), "{number}: {id}");
            }
        }
    }

    #[test]
    fn what_is_signed_beforehand_is_what_would_be_signed_late() {
        let (events, tenants) = (Events::default(), group(1, 1));
        let (early, late) = (pool(&events, &tenants, false, 100), pool(&events, &tenants, false, 0));
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for number in 0..60 {
            early.write(number, &mut one);
            late.write(number, &mut other);
            assert!(is_genuine(&one));
            let body = |request: &[u8]| request.len() - places_of(request, b"\r\n\r\n")[0];
            assert_eq!(body(&one), body(&other));
        }
        assert_eq!((early.signed_late(), late.signed_late()), (0, 60));
    }

    #[test]
    fn a_bad_signature_is_bad_in_one_digit_only() {
        let (events, tenants) = (mixed(), group(1, 1));
        let pool = pool(&events, &tenants, true, 0);
        for number in 0..50 {
            let mut request = Vec::new();
            pool.write(number, &mut request);
            assert!(!is_genuine(&request), "{number}");
        }
    }
}
