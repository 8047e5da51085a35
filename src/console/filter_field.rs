//! Fields that narrow a list to one of a few: a provider, a connection, a word.

use askama::Template;

use crate::{
    model::ids::OrgId,
    providers::Registry,
    routes::{Gateway, Query},
    store::{PageRequest, StoreResult},
};

/// Connections offered to choose from.
const CONNECTIONS: u32 = 100;

/// A field of a list's filters; nothing chosen is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(
    source = "<div class=\"field\"><label for=\"{{ name }}\">{{ label }}</label>\
<select id=\"{{ name }}\" name=\"{{ name }}\"><option value=\"\">All</option>{% for (value, shown) in options %}\
<option value=\"{{ value }}\"{% if *value == self.asked %} selected{% endif %}>{{ shown }}</option>{% endfor %}</select></div>",
    ext = "html"
)]
pub struct FilterField {
    name: &'static str,
    label: &'static str,
    /// What the address says, and what people read.
    options: Vec<(String, String)>,
    /// What was asked for; empty is all of them.
    pub asked: String,
}

impl askama::filters::HtmlSafe for FilterField {}

impl FilterField {
    fn new(query: &Query, name: &'static str, label: &'static str, mut options: Vec<(String, String)>) -> Self {
        let asked = query.get(name).unwrap_or_default().to_owned();
        // What narrows the list is shown, even if nobody would offer it.
        if !asked.is_empty() && !options.iter().any(|(value, _)| *value == asked) {
            options.push((asked.clone(), asked.clone()));
        }
        Self { name, label, options, asked }
    }

    /// One of these words.
    pub fn of_words(query: &Query, name: &'static str, label: &'static str, words: &[&str]) -> Self {
        Self::new(query, name, label, words.iter().map(|word| ((*word).to_owned(), (*word).to_owned())).collect())
    }

    /// `?provider=`
    pub fn of_providers(query: &Query, registry: &Registry) -> Self {
        let option = |slug: &str, name: &str| (slug.to_owned(), name.to_owned());
        let options = registry.iter().map(|(provider, _)| option(provider.slug().as_str(), provider.name()));
        Self::new(query, "provider", "Provider", options.collect())
    }

    /// `?connection=`: the org's newest connections, of the provider asked for.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn of_connections(query: &Query, gateway: &Gateway, org: Option<&OrgId>) -> StoreResult<Self> {
        let page = PageRequest { limit: CONNECTIONS, cursor: None };
        let found = gateway.store.list_installations(org, query.get("provider"), None, page).await?;
        let options = found.items.into_iter().map(|connection| {
            let provider = gateway.registry.name_of(connection.provider);
            (connection.id.to_string(), format!("{} ({provider})", connection.account()))
        });
        Ok(Self::new(query, "connection", "Connection", options.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_chosen_even_if_it_is_not_offered_and_stays_a_text() {
        let shown = |query: &str| {
            FilterField::of_words(&Query::parse(query), "outcome", "Outcome", &["routed", "filtered"]).to_string()
        };
        assert!(shown("").contains("<option value=\"\">All</option><option value=\"routed\">routed</option>"));
        assert!(shown("outcome=filtered").contains("<option value=\"filtered\" selected>filtered</option>"));
        let odd = shown("outcome=%22%3E%3Cb%3E");
        assert!(odd.contains(" selected>") && !odd.contains("<b>"), "{odd}");
    }
}
