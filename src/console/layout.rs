//! What is around every page: navigation, the org, the way out; and the pager below a list.

use actix_web::{HttpRequest, web};
use askama::Template;

use super::{
    assets,
    ui::{self, Markup},
    visitor::Visitor,
};
use crate::{
    model::{clock::EpochMs, ids::OrgId},
    routes::{Gateway, Query},
    store::Found,
};

/// Which entry of the navigation a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `/console`
    Overview,
    /// `/console/connections`
    Connections,
    /// `/console/workspaces`
    Workspaces,
    /// `/console/destinations`
    Destinations,
    /// `/console/events`
    Events,
    /// `/console/dead-letters`
    DeadLetters,
    /// `/console/quarantine`
    Quarantine,
    /// `/console/keys`
    Keys,
    /// `/console/settings`
    Settings,
    /// None of them.
    None,
}

/// An entry of the navigation.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Which.
    pub section: Section,
    /// Its word.
    pub label: &'static str,
    /// Its path below `/console`.
    pub path: &'static str,
    /// Whether it is for service keys only.
    pub service: bool,
    /// What `d` of its icon's path is, in a square of 16.
    pub icon: &'static str,
}

const fn entry(section: Section, label: &'static str, path: &'static str, service: bool, icon: &'static str) -> Entry {
    Entry { section, label, path, service, icon }
}

/// The navigation.
const ENTRIES: [Entry; 9] = [
    entry(Section::Overview, "Overview", "", false, "M2 13V9m4 4V3m4 10V7m4 6V5"),
    entry(Section::Events, "Events", "/events", false, "M9 1.5 3.5 9H8l-1 5.5L12.5 7H8z"),
    entry(Section::Connections, "Connections", "/connections", false, "M6 2v3m4-3v3M4 5h8v3a4 4 0 0 1-8 0zm4 7v3"),
    entry(Section::Workspaces, "Workspaces", "/workspaces", false, "M2 2h5v5H2zm7 0h5v5H9zM2 9h5v5H2zm7 0h5v5H9z"),
    entry(Section::Destinations, "Destinations", "/destinations", false, "M2 8h9m-4-4 4 4-4 4m7-9v10"),
    entry(Section::DeadLetters, "Dead letters", "/dead-letters", false, "M2 4h12v9H2zm0 0 6 5 6-5"),
    entry(
        Section::Quarantine,
        "Quarantine",
        "/quarantine",
        true,
        "M8 1.5 14 4v4c0 3.5-3 5.5-6 6.5C5 13.5 2 11.5 2 8V4z",
    ),
    entry(Section::Keys, "API keys", "/keys", true, "M10.5 2a3.5 3.5 0 1 1-3 5.3L3 11.8V14h2.5v-2H7V9.8"),
    entry(Section::Settings, "Settings", "/settings", true, "M2 4h7m4 0h1M2 12h1m4 0h7M9 2v4M5 10v4"),
];

/// What `layout.html` shows.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The path of the gateway's public URL, without a slash at its end.
    pub base: String,
    /// The title of the window.
    pub title: String,
    /// The path of stylesheet and script.
    pub assets: String,
    /// The present.
    pub now: EpochMs,
    /// Where in the navigation.
    pub section: Section,
    /// The navigation; empty outside.
    pub entries: Vec<Entry>,
    /// The org acted for.
    pub org: Option<String>,
    /// The org that the visitor chose, whatever the page is about. Without one, addresses within an org have to name theirs.
    pub chosen: Option<OrgId>,
    /// Whether the key may act for any org.
    pub is_service: bool,
    /// Whether the key may change anything.
    pub can_write: bool,
    /// Who is signed in: the person's name, or the key's id.
    pub who: String,
    /// The page's own path, `/console/…`.
    pub path: String,
    /// Whether only the content of the page is wanted.
    pub is_fragment: bool,
}

impl Layout {
    /// Around a page of somebody who is signed in.
    pub fn of(visitor: &Visitor, section: Section, title: &str) -> Self {
        let caller = &visitor.caller;
        let entries = ENTRIES.iter().filter(|entry| caller.is_service() || !entry.service).copied();
        Self {
            base: base(&visitor.gateway),
            title: title.to_owned(),
            assets: assets::path(),
            now: visitor.now,
            section,
            entries: entries.collect(),
            org: caller.org.as_ref().map(ToString::to_string),
            chosen: caller.org.clone(),
            is_service: caller.is_service(),
            can_write: caller.key.can_write,
            who: caller.user.clone().unwrap_or_else(|| caller.key.id.to_string()),
            path: visitor.path.clone(),
            is_fragment: visitor.is_fragment,
        }
    }

    /// Around a page of somebody who is not.
    pub fn outside(request: &HttpRequest, title: &str) -> Self {
        Self {
            base: base_of(request),
            title: title.to_owned(),
            assets: assets::path(),
            now: request.app_data::<web::Data<Gateway>>().map_or(EpochMs(0), |gateway| gateway.clock.now()),
            section: Section::None,
            entries: Vec::new(),
            org: None,
            chosen: None,
            is_service: false,
            can_write: false,
            who: String::new(),
            path: String::new(),
            is_fragment: false,
        }
    }

    /// Whether anybody is signed in.
    pub fn is_inside(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The end of an address within an org: which org, unless one was chosen.
    pub fn within(&self, org: &OrgId) -> String {
        if self.chosen.is_none() { format!("?org={org}") } else { String::new() }
    }

    /// The scope of the key in a word.
    pub fn scope(&self) -> &'static str {
        if self.can_write { "write" } else { "read" }
    }
}

/// The path of the gateway's public URL, without a slash at its end.
pub fn base(gateway: &Gateway) -> String {
    gateway.connecting.public_url().base().path().trim_end_matches('/').to_owned()
}

/// The same, for whoever has only the request.
pub fn base_of(request: &HttpRequest) -> String {
    request.app_data::<web::Data<Gateway>>().map(|gateway| base(gateway)).unwrap_or_default()
}

/// Below a list: the way to what is older, and back to the newest.
#[derive(Debug, Clone, Template)]
#[template(
    source = "{% if older.is_some() || !first.is_empty() %}<nav class=\"pager\" aria-label=\"Pages\">\
{% if let Some(how_far) = how_far %}<span class=\"hint\">Searched back to {{ how_far }}.</span>{% endif %}\
{% if !first.is_empty() %}<a class=\"btn\" href=\"{{ first }}\">Newest</a>{% endif %}\
{% if let Some(older) = older %}<a class=\"btn\" rel=\"next\" href=\"{{ older }}\"{% if goes_on %} data-go-on{% endif %}>\
{% if how_far.is_some() %}Search further back{% else %}Older{% endif %}</a>{% endif %}</nav>{% endif %}",
    ext = "html"
)]
pub struct Pager {
    /// The address of the next page, if there is one.
    older: Option<String>,
    /// The address of the first page, if this is another.
    first: String,
    /// How far a search came that stopped before it had a page.
    how_far: Option<Markup>,
    /// Whether the search goes on by itself: it found nothing so far.
    goes_on: bool,
}

impl askama::filters::HtmlSafe for Pager {}

impl Pager {
    /// The pager of a list asked for with this query.
    pub fn of(query: &Query, next_cursor: Option<&str>) -> Self {
        Self {
            older: next_cursor.map(|cursor| link(query, "cursor", Some(cursor))),
            first: query.get("cursor").map(|_| link(query, "cursor", None)).unwrap_or_default(),
            how_far: None,
            goes_on: false,
        }
    }

    /// The pager of a search, which may have stopped before it had a page.
    pub fn of_search<T>(query: &Query, found: &Found<T>, now: EpochMs) -> Self {
        let how_far = found.searched_back_to.map(|at| ui::time(&at, &now));
        let goes_on = how_far.is_some() && found.items.is_empty();
        Self { how_far, goes_on, ..Self::of(query, found.next_cursor.as_deref()) }
    }
}

/// A text as one segment of a path.
pub fn segment(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            safe.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            let digits = [byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)]));
            safe.push('%');
            safe.extend(digits);
        }
    }
    safe
}

/// The same page with another value (or none) of a parameter; the page of a list goes with any other change.
pub fn link(query: &Query, name: &str, value: Option<&str>) -> String {
    let mut kept = form_urlencoded::Serializer::new(String::new());
    for (other, old) in query.pairs() {
        if other != name && other != "cursor" && other != "fragment" && other != "org" && !old.is_empty() {
            kept.append_pair(other, old);
        }
    }
    if let Some(value) = value {
        kept.append_pair(name, value);
    }
    format!("?{}", kept.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_the_filters_and_leaves_the_page_of_the_list() {
        let query = Query::parse("outcome=routed&provider=&cursor=evt_1&fragment=1&org=acme&key=a%26b");
        assert_eq!(link(&query, "outcome", None), "?key=a%26b");
        assert_eq!(link(&query, "cursor", Some("evt_0")), "?outcome=routed&key=a%26b&cursor=evt_0");
        let pager = Pager::of(&query, None).to_string();
        assert!(pager.contains("?outcome=routed&#38;key=a%26b\"") && !pager.contains("Older"), "{pager}");
        assert_eq!(Pager::of(&Query::parse(""), None).to_string(), "");
    }

    #[test]
    fn a_search_that_found_nothing_so_far_says_how_far_it_is_and_goes_on_by_itself() {
        let now = EpochMs(1_771_980_000_000);
        let pager = |items: Vec<u8>, searched_back_to| {
            let found = Found { items, next_cursor: Some("evt_0".to_owned()), searched_back_to };
            Pager::of_search(&Query::parse(""), &found, now).to_string()
        };
        let looking = pager(Vec::new(), Some(now));
        assert!(
            looking.contains("Searched back to <time") && looking.contains(" data-go-on>Search further"),
            "{looking}"
        );
        assert!(!pager(vec![1], Some(now)).contains("data-go-on"));
        assert!(pager(vec![1], None).contains(">Older</a>"));
    }
}
