//! The few pages a person sees while connecting. Everything that is put into them is escaped.

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
};
use serde_json::Value;

use super::super::gateway::Gateway;

/// No script or style but our own files, nothing else at all, and in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// A page.
pub(super) struct Page<'a> {
    /// Its heading.
    pub title: &'a str,
    /// Its paragraphs.
    pub lines: &'a [&'a str],
    /// A code to quote when asking for help.
    pub code: Option<&'a str>,
    /// What the window that opened this one is told.
    pub outcome: Option<&'a Value>,
}

impl Page<'_> {
    /// The page as an answer. Nothing here may isolate it from the window that opened it (no
    /// `Cross-Origin-Opener-Policy`): that is whom it talks to.
    pub fn answer(&self, status: StatusCode, gateway: &Gateway) -> HttpResponse {
        let public = gateway.connecting.public_url();
        let base = public.base().path().trim_end_matches('/').to_owned();
        // The console's own origin; the built-in console has ours.
        let console = gateway.config.console.url.as_ref().unwrap_or(public.base());
        HttpResponse::build(status)
            .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
            .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
            .insert_header((header::REFERRER_POLICY, "no-referrer"))
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .body(self.render(&base, &console.origin().ascii_serialization()))
    }

    fn render(&self, base: &str, target: &str) -> String {
        let (title, base) = (escaped(self.title), escaped(base));
        let mut body = String::new();
        for line in self.lines {
            body.extend(["<p>", &escaped(line), "</p>\n"]);
        }
        if let Some(code) = self.code {
            body.extend(["<p><code>", &escaped(code), "</code></p>\n"]);
        }
        let (mut told, mut script) = (String::new(), String::new());
        if let Some(outcome) = self.outcome {
            told = format!(" data-outcome=\"{}\" data-target=\"{}\"", escaped(&outcome.to_string()), escaped(target));
            script = format!("<script type=\"module\" src=\"{base}/assets/connected.js\"></script>\n");
            body.push_str("<button type=\"button\" hidden>Close this window</button>\n");
        }
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<link rel=\"stylesheet\" href=\"{base}/assets/connected.css\">\n{script}</head>\n\
             <body>\n<main{told}>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
        )
    }
}

/// Text that stays text, between tags and in quoted attributes.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_that_is_put_into_a_page_becomes_markup() {
        let evil = "\"'><script>alert(1)</script>&";
        let outcome = json!({"status": "failed", "error": evil});
        let page = Page { title: evil, lines: &[evil], code: Some(evil), outcome: Some(&outcome) };
        let html = page.render("/base\"", "https://console.example.test");
        assert_eq!(html.matches("<script").count(), 1, "{html}");
        assert!(html.contains("<script type=\"module\" src=\"/base&quot;/assets/connected.js\"></script>"), "{html}");
        assert!(html.contains("data-target=\"https://console.example.test\""), "{html}");
        let attribute = html.split("data-outcome=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("there");
        let read = attribute
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&");
        assert_eq!(read.parse::<Value>().expect("JSON"), outcome);
        let quiet = Page { title: "Done", lines: &[], code: None, outcome: None };
        assert!(!quiet.render("", "x").contains("script"));
    }
}
