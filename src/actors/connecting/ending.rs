//! Where a flow ends: which addresses may be asked for, and which one it is in the end. Pure.
//!
//! **Invariants**: addresses are compared as parsed origins, never as text that begins alike; what goes into an address
//! of ours is a code, never a provider's words.

use url::{Host, Url};

use super::public_url::below;
use crate::{
    config::ConsoleConfig,
    model::{ids::InstallationId, provider::ProviderSlug},
};

/// The word for our own page as the end.
pub const INLINE: &str = "inline";

/// The longest address that is looked at, characters.
const MAX_CHARS: usize = 2048;

/// What a flow came to, as the browser is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowEnd {
    /// Connected.
    Connected {
        /// What.
        installation: InstallationId,
        /// Whether the org had it before.
        reactivated: bool,
        /// The provider's word for what the person did there.
        setup_action: Option<&'static str>,
    },
    /// Somebody else has to approve it at the provider.
    AwaitsApproval {
        /// The provider's word for it.
        setup_action: &'static str,
    },
    /// It failed; the code says why.
    Failed {
        /// `^[a-z][a-z0-9_]{0,63}$`
        error: String,
    },
}

/// Where the browser ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// There.
    Redirect(Url),
    /// On our own page.
    Page,
}

/// Whether a flow may end there: `inline`, the console's origin (ours, where the console is the one that we serve), or
/// `http://localhost` with any port.
pub fn is_allowed(address: &str, console: Option<&Url>) -> bool {
    address == INLINE || parse_allowed(address, console).is_some()
}

/// The address, if a flow may end there.
fn parse_allowed(address: &str, console: Option<&Url>) -> Option<Url> {
    // Parsers repair these, each in its own way: what a browser makes of them need not be what we saw.
    let is_plain = address.len() <= MAX_CHARS
        && address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !address.contains('#');
    let (_, rest) = address.split_once("://").filter(|(scheme, _)| is_http(scheme))?;
    if !is_plain || rest.starts_with('/') {
        return None;
    }
    let url = Url::parse(address).ok()?;
    if !url.username().is_empty() || url.password().is_some() || rest.split(['/', '?']).next()?.contains('@') {
        return None;
    }
    let is_local = url.scheme() == "http" && url.host() == Some(Host::Domain("localhost"));
    let is_console = console.is_some_and(|console| console.origin() == url.origin());
    (is_local || is_console).then_some(url)
}

fn is_http(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// Where the browser ends, given what was asked for at the beginning and where the provider wants it next.
pub fn destination(
    provider: ProviderSlug,
    asked_for: Option<&str>,
    console: &ConsoleConfig,
    ours: &Url,
    end: &FlowEnd,
    follow: Option<Url>,
) -> Destination {
    if let (Some(next), FlowEnd::Connected { .. }) = (follow, end) {
        return Destination::Redirect(next);
    }
    let base = match asked_for {
        Some(INLINE) => None,
        // What was allowed at the beginning is looked at again: the configuration may have changed since.
        Some(address) => parse_allowed(address, Some(console_of(console, ours))),
        None => console.url.clone(),
    };
    let Some(base) = base else { return Destination::Page };
    let has_own_path = asked_for.is_some() && base.path() != "/";
    if !has_own_path && console.url.is_none() && base.origin() == ours.origin() {
        // The page of ours that a flow ends on is the one we have for that.
        return Destination::Page;
    }
    let mut url = if has_own_path { base } else { below(&base, &connected_path(provider, console)) };
    add_outcome(&mut url, end);
    Destination::Redirect(url)
}

/// The console: one elsewhere, or our own.
pub fn console_of<'c>(console: &'c ConsoleConfig, ours: &'c Url) -> &'c Url {
    console.url.as_ref().unwrap_or(ours)
}

fn connected_path(provider: ProviderSlug, console: &ConsoleConfig) -> String {
    console.connected_path.replace("{provider}", provider.as_str())
}

/// Says the outcome in the query, keeping what else is in it.
fn add_outcome(url: &mut Url, end: &FlowEnd) {
    const OURS: [&str; 3] = ["error", "reactivated", "setup_action"];
    let kept: Vec<(String, String)> =
        url.query_pairs().into_owned().filter(|(name, _)| !OURS.contains(&name.as_str())).collect();
    url.set_query(None);
    let mut said: Vec<(&str, &str)> = Vec::new();
    match end {
        FlowEnd::Failed { error } => said.push(("error", error)),
        FlowEnd::AwaitsApproval { setup_action } => said.push(("setup_action", setup_action)),
        FlowEnd::Connected { reactivated, setup_action, .. } => {
            said.extend(reactivated.then_some(("reactivated", "true")));
            said.extend(setup_action.map(|action| ("setup_action", action)));
        }
    }
    if !kept.is_empty() || !said.is_empty() {
        url.query_pairs_mut().extend_pairs(kept).extend_pairs(said);
    }
}

/// A provider's error as we repeat it: a code stays what it is, anything else is `provider_error`.
pub fn error_code(told: &str) -> String {
    let is_code = (1..=64).contains(&told.len())
        && told.starts_with(|first: char| first.is_ascii_lowercase())
        && told.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if is_code { told.to_owned() } else { "provider_error".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GITHUB: ProviderSlug = ProviderSlug("github");

    fn console(url: Option<&str>) -> ConsoleConfig {
        let url = url.map(|url| url.parse().expect("a URL"));
        ConsoleConfig {
            url,
            connected_path: "/{provider}/connected".into(),
            allowed_origins: Vec::new(),
            enabled: true,
            session_idle: std::time::Duration::from_hours(8),
            session_max: std::time::Duration::from_hours(168),
        }
    }

    fn ours() -> Url {
        "https://hooks.example.test".parse().expect("a URL")
    }

    fn connected(reactivated: bool) -> FlowEnd {
        FlowEnd::Connected { installation: InstallationId::from_raw("in_1"), reactivated, setup_action: None }
    }

    fn ends_on(asked_for: Option<&str>, console: &ConsoleConfig, end: &FlowEnd) -> Option<String> {
        match destination(GITHUB, asked_for, console, &ours(), end, None) {
            Destination::Redirect(url) => Some(url.into()),
            Destination::Page => None,
        }
    }

    #[test]
    fn only_the_console_and_localhost_are_allowed_whatever_they_look_like() {
        let console: Url = "https://console.example.test".parse().expect("a URL");
        for allowed in [
            "inline",
            "https://console.example.test",
            "https://console.example.test/",
            "https://CONSOLE.example.test:443/settings?tab=1",
            "http://localhost",
            "http://localhost:4107",
            "http://localhost:65535/done",
            "HTTP://localhost:1",
        ] {
            assert!(is_allowed(allowed, Some(&console)), "{allowed}");
        }
        for refused in [
            "",
            "Inline",
            "localhost:4107",
            "//localhost:4107",
            "http:localhost:4107",
            "http:/localhost:4107",
            "http:///localhost:4107",
            "https://localhost:4107",
            "http://localhost.evil.test",
            "http://localhost:4107.evil.test",
            "http://localhost:4107@evil.test",
            "http://localhost@evil.test",
            "http://user@localhost:4107",
            "http://@localhost:4107",
            "http://:@localhost:4107",
            "http://evil.test/http://localhost:4107",
            "http://evil.test?http://localhost:4107",
            "http://evil.test#http://localhost:4107",
            "http://localhost:4107#@evil.test",
            "http://localhost\\@evil.test",
            "http:\\\\localhost",
            "http://localhost:4107\\.evil.test",
            "http://localhost\t.evil.test",
            " http://localhost:4107",
            "http://localhost:4107 ",
            "http://localhost%2eevil.test",
            "http://localhost.:4107",
            "http://xlocalhost:4107",
            "http://127.0.0.1:4107",
            "http://[::1]:4107",
            "http://ｌocalhost:4107",
            "http://localhost:99999",
            "javascript://localhost/%0aalert(1)",
            "data:text/html,x",
            "ftp://localhost",
            "http://console.example.test",
            "https://console.example.test:8443",
            "https://console.example.test.evil.test",
            "https://console.example.testevil.test",
            "https://evil.test/console.example.test",
            "https://console.example.test@evil.test",
        ] {
            assert!(!is_allowed(refused, Some(&console)), "{refused}");
        }
        assert!(!is_allowed("https://console.example.test", None));
        assert!(!is_allowed(&format!("http://localhost/{}", "a".repeat(MAX_CHARS)), None));
    }

    #[test]
    fn a_flow_ends_on_the_console_where_it_was_asked_to_or_on_our_page() {
        let outside = console(Some("https://console.example.test/app"));
        let base = "https://console.example.test/app/github/connected";
        assert_eq!(ends_on(None, &outside, &connected(false)).as_deref(), Some(base));
        assert_eq!(ends_on(None, &outside, &connected(true)), Some(format!("{base}?reactivated=true")));
        let refused = FlowEnd::Failed { error: "access_denied".into() };
        assert_eq!(ends_on(None, &outside, &refused), Some(format!("{base}?error=access_denied")));
        let waits = FlowEnd::AwaitsApproval { setup_action: "request" };
        assert_eq!(ends_on(None, &outside, &waits), Some(format!("{base}?setup_action=request")));

        assert_eq!(ends_on(Some("inline"), &outside, &refused), None);
        assert_eq!(ends_on(None, &console(None), &refused), None);
        let local = Some("http://localhost:3000");
        let ended = ends_on(local, &outside, &connected(false));
        assert_eq!(ended.as_deref(), Some("http://localhost:3000/github/connected"));
        let own = Some("http://localhost:3000/done?tab=a%26b&error=forged");
        let ended = ends_on(own, &outside, &connected(true));
        assert_eq!(ended.as_deref(), Some("http://localhost:3000/done?tab=a%26b&reactivated=true"));
        // The console moved while the person was away.
        assert_eq!(ends_on(Some("https://old.example.test"), &outside, &connected(false)), None);
    }

    #[test]
    fn the_console_that_we_serve_is_the_console_where_no_other_is_configured() {
        let (own, other) = (console(None), console(Some("https://console.example.test")));
        let page = Some("https://hooks.example.test/console/connections?x=1");
        assert_eq!(
            ends_on(page, &own, &connected(true)).as_deref(),
            Some("https://hooks.example.test/console/connections?x=1&reactivated=true")
        );
        assert_eq!(ends_on(Some("https://hooks.example.test"), &own, &connected(false)), None, "on our page");
        assert_eq!(ends_on(page, &other, &connected(false)), None, "the console is elsewhere");
        let beside_us = console(Some("https://hooks.example.test"));
        let ended = ends_on(None, &beside_us, &connected(false));
        assert_eq!(ended.as_deref(), Some("https://hooks.example.test/github/connected"), "a console behind our host");
        assert!(is_allowed("https://hooks.example.test", Some(console_of(&own, &ours()))));
        assert!(!is_allowed("https://hooks.example.test", Some(console_of(&other, &ours()))));
    }

    #[test]
    fn the_providers_next_page_wins_only_when_the_flow_went_well() {
        let next: Url = "https://vercel.com/done".parse().expect("a URL");
        let end = |end| destination(GITHUB, Some("inline"), &console(None), &ours(), &end, Some(next.clone()));
        assert_eq!(end(connected(false)), Destination::Redirect(next.clone()));
        assert_eq!(end(FlowEnd::Failed { error: "x".into() }), Destination::Page);
    }

    #[test]
    fn only_codes_of_a_provider_are_repeated() {
        assert_eq!(error_code("access_denied"), "access_denied");
        for told in
            ["", "<script>alert(1)</script>", "Access_denied", "1st", "a b", "é", &"a".repeat(65), "a\n", "a%0a"]
        {
            assert_eq!(error_code(told), "provider_error", "{told}");
        }
    }
}
