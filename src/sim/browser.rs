//! A person's browser, as far as connecting needs one: cookies, links, redirects across origins.
//!
//! ```text
//! let mut browser = Browser::new().stopping_at("http://localhost:4107");
//! let page = browser.visit(&url).await?;          // the url of GET /connections/{provider}/authorize
//! assert_eq!(page.parameter("error"), None);      // where it ended: page.url, page.hops, page.body
//! ```
//!
//! **Invariants.** Only loopback is visited; anywhere else is where the walk ends. Cookies belong to an origin; `Path`,
//! `Secure`, `HttpOnly`, `SameSite` and the `__Host-` prefix mean what RFC 6265bis says, with one simplification: two
//! ports are two sites, so that a provider is always somebody else.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use url::Url;

use super::{
    client::{Answer, Client, ClientError},
    world::visit::{VISIT_HEADER, Visit},
};

/// How many redirects in a row are followed.
const PATIENCE: usize = 20;

/// Why a page did not come.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// Not a URL a browser could visit.
    #[error("{0} cannot be visited")]
    NotAUrl(String),
    /// Redirected too often.
    #[error("redirected {PATIENCE} times and still not there: {0}")]
    Circles(Url),
    /// No answer.
    #[error("{url}: {source}")]
    NoAnswer {
        /// Of whom.
        url: Url,
        /// Why.
        source: ClientError,
    },
}

/// One request on the way.
#[derive(Debug, Clone)]
pub struct Hop {
    /// Where.
    pub url: Url,
    /// What it was answered with.
    pub status: u16,
    /// Every `Set-Cookie`, as sent.
    pub set_cookies: Vec<String>,
    /// Where it was sent on.
    pub location: Option<String>,
    /// The names of the cookies it carried.
    pub carried: Vec<String>,
}

/// Where a walk ended.
#[derive(Debug, Clone)]
pub struct Page {
    /// The address bar.
    pub url: Url,
    /// The status; 0 if the walk stopped before visiting it.
    pub status: u16,
    /// Its content type.
    pub content_type: String,
    /// What it shows.
    pub body: String,
    /// How one got there.
    pub hops: Vec<Hop>,
}

impl Page {
    /// Whether the walk was stopped before this page.
    pub fn was_stopped(&self) -> bool {
        self.status == 0
    }

    /// A parameter of the address bar's query.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The target of the first link whose tag or text contains `text`.
    pub fn link(&self, text: &str) -> Option<Url> {
        let mut rest = self.body.as_str();
        while let Some(at) = rest.find("href=\"") {
            rest = &rest[at + 6..];
            let (target, after) = rest.split_once('"')?;
            let shown = after.split("</a>").next().unwrap_or_default();
            if shown.contains(text) {
                return self.url.join(&target.replace("&amp;", "&").replace("&quot;", "\"").replace("&#39;", "'")).ok();
            }
        }
        None
    }

    /// The hop that visited a path.
    pub fn hop(&self, path: &str) -> Option<&Hop> {
        self.hops.iter().find(|hop| hop.url.path() == path)
    }
}

#[derive(Debug, Clone)]
struct Cookie {
    value: String,
    path: String,
    strict: bool,
}

/// A browser with its cookies.
#[derive(Debug, Default)]
pub struct Browser {
    cookies: BTreeMap<(String, String), Cookie>,
    stops: Vec<String>,
    visit: Option<Visit>,
}

impl Browser {
    /// A browser that has been nowhere.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, which stops before it visits an origin (`http://localhost:4107`): a console that is not there.
    #[must_use]
    pub fn stopping_at(mut self, origin: &str) -> Self {
        self.stops.push(origin.trim_end_matches('/').to_owned());
        self
    }

    /// The same, with a person who does this on the providers' pages, whatever the simulators have set.
    #[must_use]
    pub fn with_visit(mut self, visit: Visit) -> Self {
        self.visit = Some(visit);
        self
    }

    /// Lets the person do something else from now on.
    pub fn will(&mut self, visit: Visit) {
        self.visit = Some(visit);
    }

    /// Types a URL into the address bar and follows where it leads.
    ///
    /// # Errors
    /// [`BrowserError`].
    pub async fn visit(&mut self, url: &str) -> Result<Page, BrowserError> {
        self.walk(url, None).await
    }

    /// Follows a link on a page.
    ///
    /// # Errors
    /// [`BrowserError`].
    pub async fn follow(&mut self, from: &Page, url: &str) -> Result<Page, BrowserError> {
        let target = from.url.join(url).map_err(|_| BrowserError::NotAUrl(url.to_owned()))?;
        self.walk(target.as_str(), Some(from.url.origin().ascii_serialization())).await
    }

    /// The value of a cookie of an origin.
    pub fn cookie(&self, origin: &str, name: &str) -> Option<&str> {
        let key = (origin.trim_end_matches('/').to_owned(), name.to_owned());
        self.cookies.get(&key).map(|cookie| cookie.value.as_str())
    }

    async fn walk(&mut self, url: &str, mut from: Option<String>) -> Result<Page, BrowserError> {
        let mut url = Url::parse(url).map_err(|_| BrowserError::NotAUrl(url.to_owned()))?;
        let mut hops: Vec<Hop> = Vec::new();
        while hops.len() < PATIENCE {
            let origin = url.origin().ascii_serialization();
            let Some(address) = loopback(&url).filter(|_| !self.stops.contains(&origin)) else {
                return Ok(Page { url, status: 0, content_type: String::new(), body: String::new(), hops });
            };
            // A fragment stays in the browser.
            let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
            let cross_site = from.as_ref().is_some_and(|from| *from != origin);
            let carried = self.carried(&origin, url.path(), cross_site);
            let answer = self.ask(address, path, &carried).await;
            let answer = answer.map_err(|source| BrowserError::NoAnswer { url: url.clone(), source })?;
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let set_cookies: Vec<String> = answer.headers.all("set-cookie").map(text).collect();
            for set in &set_cookies {
                self.keep(&url, set);
            }
            let location = answer.headers.get("location").map(str::to_owned);
            let redirected = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
            hops.push(Hop {
                url: url.clone(),
                status: answer.status,
                set_cookies,
                location: location.clone(),
                carried: carried.into_iter().map(|(name, _)| name).collect(),
            });
            match location.filter(|_| redirected) {
                Some(location) => {
                    let mut next = url.join(&location).map_err(|_| BrowserError::NotAUrl(location))?;
                    if next.fragment().is_none() {
                        next.set_fragment(url.fragment());
                    }
                    // Once a walk has crossed sites it stays crossed, as `SameSite` has it.
                    from = if cross_site { from } else { Some(origin) };
                    url = next;
                }
                None => return Ok(shown(url, &answer, hops)),
            }
        }
        Err(BrowserError::Circles(url))
    }

    async fn ask(&self, address: SocketAddr, path: &str, carried: &[(String, String)]) -> Result<Answer, ClientError> {
        let cookies: Vec<String> = carried.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let visit = self.visit.as_ref().map(Visit::to_header);
        let accept = "text/html,application/xhtml+xml,*/*;q=0.8";
        let mut headers = vec![("accept", accept), ("user-agent", "Mozilla/5.0 (simulated)")];
        if !cookies.is_empty() {
            headers.push(("cookie", cookies.as_str()));
        }
        if let Some(visit) = &visit {
            headers.push((VISIT_HEADER, visit.as_str()));
        }
        Client::new(address).send("GET", path, &headers, Bytes::new()).await
    }

    fn carried(&self, origin: &str, path: &str, cross_site: bool) -> Vec<(String, String)> {
        let of_origin = self.cookies.iter().filter(|((of, _), _)| of == origin);
        let goes_along = of_origin.filter(|(_, cookie)| {
            let lax_enough = !cross_site || !cookie.strict;
            lax_enough && path_matches(path, &cookie.path)
        });
        goes_along.map(|((_, name), cookie)| (name.clone(), cookie.value.clone())).collect()
    }

    /// Keeps a cookie if it is one.
    fn keep(&mut self, url: &Url, set: &str) {
        let mut parts = set.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { return };
        let (mut path, mut secure, mut domain, mut gone) = (String::new(), false, false, false);
        let (mut strict, mut explicit_lax) = (false, false);
        for part in parts {
            let (attribute, given) = part.split_once('=').unwrap_or((part, ""));
            match attribute.to_ascii_lowercase().as_str() {
                "path" if given.starts_with('/') => given.clone_into(&mut path),
                "secure" => secure = true,
                "domain" => domain = true,
                "max-age" => gone |= given.parse::<i64>().is_ok_and(|age| age <= 0),
                "expires" => gone |= given.contains(" 1970 "),
                "samesite" => {
                    strict = given.eq_ignore_ascii_case("strict");
                    explicit_lax = given.eq_ignore_ascii_case("lax");
                }
                _ => {}
            }
        }
        let https = url.scheme() == "https";
        let is_refused = (secure && !https)
            || (name.starts_with("__Host-") && (!secure || domain || path != "/"))
            || (name.starts_with("__Secure-") && !secure)
            || domain;
        if is_refused {
            return;
        }
        // Without `SameSite` a cookie is lax; `None` needs `Secure`, which nothing here has.
        let key = (url.origin().ascii_serialization(), name.to_owned());
        if gone {
            self.cookies.remove(&key);
            return;
        }
        if path.is_empty() {
            path = default_path(url.path());
        }
        self.cookies.insert(key, Cookie { value: value.to_owned(), path, strict: strict && !explicit_lax });
    }
}

fn shown(url: Url, answer: &Answer, hops: Vec<Hop>) -> Page {
    Page {
        url,
        status: answer.status,
        content_type: answer.headers.get("content-type").unwrap_or_default().to_owned(),
        body: String::from_utf8_lossy(&answer.body).into_owned(),
        hops,
    }
}

/// The address of a plain-HTTP URL on this machine.
fn loopback(url: &Url) -> Option<SocketAddr> {
    let port = url.port_or_known_default()?;
    let is_here = matches!(url.host_str(), Some("127.0.0.1" | "localhost"));
    (url.scheme() == "http" && is_here).then(|| SocketAddr::from(([127, 0, 0, 1], port)))
}

/// RFC 6265, section 5.1.4.
fn default_path(path: &str) -> String {
    match path.rfind('/') {
        None | Some(0) => "/".to_owned(),
        Some(at) => path[..at].to_owned(),
    }
}

fn path_matches(path: &str, of_cookie: &str) -> bool {
    path == of_cookie
        || path.strip_prefix(of_cookie).is_some_and(|rest| of_cookie.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn cookies_keep_to_their_origin_path_and_site() {
        let mut browser = Browser::new();
        browser.keep(&url("http://127.0.0.1:1/connect/x"), "a=1; Path=/; HttpOnly; SameSite=Lax");
        browser.keep(&url("http://127.0.0.1:1/connect/x"), "b=2; SameSite=Strict; Path=/");
        browser.keep(&url("http://127.0.0.1:1/connect/x"), "c=3");
        let names = |origin, path, cross| -> Vec<String> {
            browser.carried(origin, path, cross).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names("http://127.0.0.1:1", "/", false), ["a", "b"]);
        assert_eq!(names("http://127.0.0.1:1", "/connect/y", false), ["a", "b", "c"]);
        assert_eq!(names("http://127.0.0.1:1", "/connected", false), ["a", "b"]);
        assert_eq!(names("http://127.0.0.1:1", "/", true), ["a"]);
        assert!(names("http://127.0.0.1:2", "/", false).is_empty());
    }

    #[test]
    fn secure_cookies_do_not_come_over_http_and_prefixes_are_kept_to() {
        let mut browser = Browser::new();
        for set in ["a=1; Secure; Path=/", "__Host-b=1; Path=/", "__Secure-c=1", "d=1; Domain=127.0.0.1", "no cookie"] {
            browser.keep(&url("http://127.0.0.1:1/"), set);
        }
        assert!(browser.cookies.is_empty(), "{:?}", browser.cookies);
        browser.keep(&url("https://127.0.0.1:1/"), "__Host-b=1; Path=/; Secure");
        assert_eq!(browser.cookie("https://127.0.0.1:1", "__Host-b"), Some("1"));
        browser.keep(&url("https://127.0.0.1:1/"), "__Host-b=; Path=/; Secure; Max-Age=0");
        assert!(browser.cookies.is_empty());
    }

    #[test]
    fn only_this_machine_is_visited() {
        assert!(loopback(&url("http://localhost:4107/x")).is_some());
        for elsewhere in ["https://127.0.0.1/", "http://example.com/", "http://127.0.0.1.example.com/"] {
            assert!(loopback(&url(elsewhere)).is_none(), "{elsewhere}");
        }
    }
}
