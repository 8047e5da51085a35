//! Connects all four providers as a person would: the gateway's URL, a browser, the provider's page, back again.

use anyhow::Context;
use tokio::time::Instant;
use url::Url;

use super::{
    script::{ACCOUNT, WORKSPACES},
    telling::Teller,
};
use crate::sim::{
    self,
    browser::{Browser, Hop},
    operator::Operator,
    world::{Simulators, Visit},
};

/// Connects every provider and subscribes the workspaces to a resource of each.
pub(super) async fn connect_all(operator: &mut Operator, world: &Simulators, teller: &Teller) -> anyhow::Result<()> {
    teller.heading("A person connects the four providers, each on its (simulated) own page");
    let mut browser = Browser::new().with_visit(Visit::of_account(ACCOUNT));
    for provider in sim::PROVIDERS {
        let began = Instant::now();
        let connected = operator.connect(provider, &mut browser).await?;
        let took = began.elapsed();
        let facts =
            world.facts(provider.slug, ACCOUNT, 0).with_context(|| format!("nobody simulates {}", provider.slug))?;
        let mut subscribed = Vec::new();
        for workspace in &WORKSPACES {
            for (_, keys) in workspace.wants.iter().filter(|(of, _)| *of == provider.slug) {
                operator.subscribe(workspace.name, &connected.connection, &facts, *keys).await?;
                subscribed.push(workspace.name);
            }
        }
        let resource = format!("{} {}", facts.account, facts.resource_name);
        teller.connected(provider.slug, &connected.connection, &way(&connected.page.hops), took);
        teller.fact("", &format!("{resource} → {}", subscribed.join(", ")));
    }
    Ok(())
}

/// The pages of a way, without what must not be read over a shoulder: states and codes.
fn way(hops: &[Hop]) -> String {
    let shown = |url: &Url| {
        let mut segments = url.path_segments().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        // The launch page's last segment is the state.
        if segments.first() == Some(&"connect") {
            segments.truncate(2);
        }
        format!("/{}", segments.join("/"))
    };
    hops.iter().map(|hop| shown(&hop.url)).collect::<Vec<_>>().join(" → ")
}
