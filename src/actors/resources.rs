//! What the provider lists for an installation: pickers, links that the provider vouches for, and looking again.
//!
//! **Invariants**: a linked resource is removed only if a former look saw it and two complete later listings do not: what
//! a trusted caller linked unseen stays; facts that arrived while the provider was listing are not undone by the list.
//! **Must not know** how any provider lists.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::FutureExt;
use serde_json::{Map, Value};

use super::{
    AskError,
    directory::{Directory, LinkResource},
    installation::{
        InstallationError,
        control::{self, NewFacts},
        resumption,
        state::{self, Edit},
    },
    provider_calls::ProviderCallError,
    runtime::isolate,
    tokens::GrantVerdict,
};
use crate::{
    model::{
        clock::EpochMs,
        ids::InstallationId,
        installation::{Installation, InstallationStatus},
        log_entry::Actor,
        provider::ProviderResourceId,
        resource::{Resource, ResourceStatus},
    },
    providers::{
        ControlChange, RemovalReason,
        connector::{Account, ResourcePage, VisibleResource},
    },
    store::{InstallationRecord, StoreError},
};

/// Pages asked for in one look at the most; with a hundred on each, ten thousand resources.
const MAX_PAGES: usize = 100;
/// How long a trusted caller's link waits for facts about its resource.
const FACTS_TIME: Duration = Duration::from_secs(3);

/// What a look at the provider showed, compared with the look before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Resources that were not there then.
    pub added: usize,
    /// Resources that are not there any more.
    pub removed: usize,
    /// Resources that are there now.
    pub total: usize,
}

/// Everything the provider lists, as far as it was read.
struct Listing {
    items: Vec<VisibleResource>,
    /// Whether the last page was reached, and what is on the pages is as many as each of them counted.
    is_complete: bool,
    /// Whether there are pages that are not read, because there are too many.
    is_cut_off: bool,
    /// When the first page was asked for.
    began: EpochMs,
}

impl Listing {
    fn ids(&self) -> HashSet<ProviderResourceId> {
        self.items.iter().map(|item| item.id.clone()).collect()
    }

    /// The former ones that are not listed; none if it is not certain that the list is whole.
    fn missing(&self, before: &HashSet<ProviderResourceId>) -> HashSet<ProviderResourceId> {
        if self.is_complete { before.difference(&self.ids()).cloned().collect() } else { HashSet::new() }
    }

    /// The wanted ones that the provider does not list.
    ///
    /// # Errors
    /// If there are any, and there is more than was read.
    fn lacks(&self, wanted: &HashSet<ProviderResourceId>) -> Result<HashSet<ProviderResourceId>, ProviderCallError> {
        let lacking: HashSet<_> = wanted.difference(&self.ids()).cloned().collect();
        match lacking.iter().min() {
            Some(first) if self.is_cut_off => {
                let why = format!("{first} is not among the first {} that it lists", self.items.len());
                Err(ProviderCallError::ProviderUnavailable(why))
            }
            _ => Ok(lacking),
        }
    }

    /// What is in either of two listings. Their pages are of different moments: what was listed the second time is what
    /// counts, and what only the first one had is still taken for there.
    fn joined_by(self, second: Self) -> Self {
        let listed = second.ids();
        let mut items = second.items;
        items.extend(self.items.into_iter().filter(|item| !listed.contains(&item.id)));
        let is_complete = self.is_complete && second.is_complete;
        Self { items, is_complete, is_cut_off: self.is_cut_off || second.is_cut_off, began: self.began }
    }
}

impl Directory {
    /// One page of what the provider lists; `cursor` is a former page's.
    pub async fn list_at_provider(
        &self,
        id: &InstallationId,
        cursor: Option<&str>,
    ) -> Result<ResourcePage, AskError<ProviderCallError>> {
        let cursor = cursor.map(str::to_owned);
        self.ask_provider(id, move |connector, grant, token| {
            let cursor = cursor.clone();
            async move { connector.list_resources(&grant, &token.access, cursor.as_deref()).await }.boxed()
        })
        .await
    }

    /// What the provider lists as far as it takes to find the wanted resources, or all of it.
    async fn find_at_provider(
        &self,
        id: &InstallationId,
        wanted: &HashSet<ProviderResourceId>,
    ) -> Result<Listing, AskError<ProviderCallError>> {
        let mut missing = wanted.clone();
        self.list_until(id, |page| {
            for item in page {
                missing.remove(&item.id);
            }
            missing.is_empty()
        })
        .await
    }

    /// Reads page after page until there is no next one, or `suffices` says so of a page.
    async fn list_until(
        &self,
        id: &InstallationId,
        mut suffices: impl FnMut(&[VisibleResource]) -> bool,
    ) -> Result<Listing, AskError<ProviderCallError>> {
        let mut listing = Listing { items: Vec::new(), is_complete: false, is_cut_off: false, began: self.now() };
        let mut seen = HashSet::new();
        let mut cursor: Option<String> = None;
        let mut totals = Vec::new();
        for _page in 0..MAX_PAGES {
            let page = self.list_at_provider(id, cursor.as_deref()).await.map_err(of_our_cursor)?;
            let suffices = suffices(&page.items);
            totals.extend(page.total);
            listing.items.extend(page.items.into_iter().filter(|item| seen.insert(item.id.clone())));
            match page.next_cursor {
                // Where pages are numbered, what leaves a page that was read moves another resource onto it, unseen.
                None => listing.is_complete = totals.iter().all(|total| *total == listing.items.len()),
                // A provider that answers the cursor it was asked with would be read for ever.
                next if next == cursor => {}
                next if !suffices => {
                    cursor = next;
                    continue;
                }
                Some(_) => {}
            }
            return Ok(listing);
        }
        tracing::warn!(installation.id = %id, pages = MAX_PAGES, "the provider lists more than is read");
        listing.is_cut_off = true;
        Ok(listing)
    }

    /// Fills in what the provider knows of resources about to be linked. Answers those that the provider does not list,
    /// among the ones that are not linked yet: nobody vouches for them.
    ///
    /// # Errors
    /// If the provider cannot be asked, or lists more than is read and not all of them before that.
    pub async fn vouch_for_links(
        &self,
        record: &InstallationRecord,
        links: &mut [LinkResource],
    ) -> Result<Vec<ProviderResourceId>, AskError<ProviderCallError>> {
        let wanted = not_linked(record, links);
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let listing = self.find_at_provider(&record.installation.id, &wanted).await?;
        fill_in(links, &wanted, &listing);
        let lacking = listing.lacks(&wanted).map_err(AskError::Reply)?;
        Ok(links.iter().map(|link| link.provider_resource_id.clone()).filter(|id| lacking.contains(id)).collect())
    }

    /// Fills in what the provider knows of resources that a trusted caller links, if it tells in time. Whatever keeps it
    /// from telling keeps nobody from linking.
    pub async fn fill_in_links(&self, record: &InstallationRecord, links: &mut [LinkResource]) {
        let wanted = not_linked(record, links);
        if wanted.is_empty() {
            return;
        }
        let asked = self.find_at_provider(&record.installation.id, &wanted);
        match tokio::time::timeout(FACTS_TIME, asked).await {
            Ok(Ok(listing)) => fill_in(links, &wanted, &listing),
            Ok(Err(error)) => {
                tracing::debug!(installation.id = %record.installation.id, %error, "linked without the provider's facts");
            }
            Err(_elapsed) => {
                tracing::debug!(installation.id = %record.installation.id, "linked before the provider told its facts");
            }
        }
    }

    /// Reads the account and everything listed at the provider, puts our rows right, and compares with the last look.
    pub async fn look_again(&self, id: &InstallationId, actor: Actor) -> Result<Look, AskError<ProviderCallError>> {
        let mut seen = self.see(id).await?;
        if seen.status == InstallationStatus::Suspended {
            self.look_at_suspended(&seen, actor.clone()).await?;
            seen = self.see(id).await?;
        }
        let account = self
            .ask_provider(id, |connector, grant, token| {
                async move { connector.read_account(&grant, &token.access).await }.boxed()
            })
            .await?;
        if account.suspended {
            let told = ProviderCallError::NotActive(InstallationStatus::Suspended);
            return Err(self.judge_and_tell(&seen, GrantVerdict::Suspended, told).await);
        }
        let mut listing = self.list_until(id, |_| false).await?;
        let before = self.store().find_visible_resources(id).await.map_err(of_store)?;
        let before: HashSet<_> = before.unwrap_or_default().into_iter().collect();
        if !listing.missing(&before).is_empty() {
            // Nothing brings back a link that was removed by mistake: one list is not enough to say that it left.
            listing = listing.joined_by(self.list_until(id, |_| false).await?);
        }
        let (now, gone) = (listing.ids(), listing.missing(&before));
        let look = Look { added: now.difference(&before).count(), removed: gone.len(), total: now.len() };
        // What was not read to the end is remembered beside what was known: it is no reason to forget anything.
        let mut remembered: Vec<_> =
            if listing.is_complete { now.into_iter().collect() } else { now.union(&before).cloned().collect() };
        remembered.sort_unstable();
        self.edit(id, actor, move |record, edit| {
            renew_account(record, account, edit);
            renew_resources(record, &listing, &gone, edit);
            Ok(())
        })
        .await
        .map_err(of_edit)?;
        self.store().save_visible_resources(id, &remembered, self.now()).await.map_err(of_store)?;
        Ok(look)
    }

    /// Lets a suspended installation go on if its provider does: it may not have told so, or not have been heard.
    ///
    /// # Errors
    /// [`ProviderCallError::NotActive`] if it is suspended still.
    async fn look_at_suspended(&self, seen: &Installation, actor: Actor) -> Result<(), AskError<ProviderCallError>> {
        match isolate(resumption::is_suspended(self.deps(), seen)).await {
            Err(_panicked) => Err(AskError::Reply(ProviderCallError::Crashed)),
            Ok(Err(error)) => Err(AskError::Reply(error.into())),
            Ok(Ok(Err(error))) => Err(self.judge_call(seen, error).await),
            Ok(Ok(Ok(true))) => Err(AskError::Reply(ProviderCallError::NotActive(InstallationStatus::Suspended))),
            Ok(Ok(Ok(false))) => {
                let resumed = move |record: &mut InstallationRecord, edit: &Edit<'_>| {
                    control::apply(record, &[ControlChange::InstallationResumed], None, edit);
                };
                self.edit_as_seen(seen, actor, resumed).await.map(drop).map_err(of_edit)
            }
        }
    }

    /// Looks again, beside whatever goes on.
    pub(super) fn look_in_background(&self, id: &InstallationId) {
        let (directory, id) = (self.clone(), id.clone());
        self.in_background(async move {
            if let Err(error) = directory.look_again(&id, Actor::system()).await {
                tracing::debug!(installation.id = %id, %error, "could not look at the provider");
            }
        });
    }

    /// Looks again at every installation that routes, or would if it were not suspended: for the janitor. What cannot be
    /// asked now is asked the next time.
    pub async fn look_at_all(&self) -> Result<(), StoreError> {
        let mut ids = self.store().list_routing_installations().await?;
        ids.extend(self.list_in(InstallationStatus::Suspended).await?.into_iter().map(|suspended| suspended.id));
        for id in ids {
            match self.look_again(&id, Actor::system()).await {
                Ok(look) => {
                    tracing::debug!(installation.id = %id, look.added, look.removed, look.total, "looked at the provider");
                }
                Err(error) => tracing::debug!(installation.id = %id, %error, "could not look at the provider"),
            }
        }
        Ok(())
    }
}

/// A cursor that the provider itself gave a moment ago, and does not take: it is not the caller who erred.
fn of_our_cursor(error: AskError<ProviderCallError>) -> AskError<ProviderCallError> {
    match error {
        AskError::Reply(ProviderCallError::InvalidParameter) => {
            let why = "it does not take the cursor that it gave".to_owned();
            AskError::Reply(ProviderCallError::ProviderUnavailable(why))
        }
        error => error,
    }
}

/// The ids among `links` that are not active in the record.
fn not_linked(record: &InstallationRecord, links: &[LinkResource]) -> HashSet<ProviderResourceId> {
    let ids = links.iter().map(|link| &link.provider_resource_id);
    ids.filter(|id| state::find_linked(record, id).is_none()).cloned().collect()
}

/// Of the wanted ones, what the caller gave stays; the rest is the provider's word.
fn fill_in(links: &mut [LinkResource], wanted: &HashSet<ProviderResourceId>, listing: &Listing) {
    let found = listing.items.iter().filter(|item| wanted.contains(&item.id));
    let found: HashMap<_, _> = found.map(|item| (&item.id, item)).collect();
    for link in links {
        let Some(item) = found.get(&link.provider_resource_id) else { continue };
        link.name.get_or_insert_with(|| shown_name(item));
        if link.slug.is_none() {
            link.slug.clone_from(&item.slug);
        }
        for (name, value) in attrs_of(item) {
            link.attrs.entry(name).or_insert(value);
        }
    }
}

fn shown_name(item: &VisibleResource) -> String {
    item.full_name.clone().unwrap_or_else(|| item.name.clone())
}

/// A listed resource's small facts, under the names that control events use.
fn attrs_of(item: &VisibleResource) -> Map<String, Value> {
    let mut attrs = item.attrs.clone();
    let facts = [
        ("fullName", item.full_name.clone().map(Value::String)),
        ("isPrivate", item.private.map(Value::Bool)),
        ("isArchived", item.archived.map(Value::Bool)),
        ("defaultBranch", item.default_branch.clone().map(Value::String)),
    ];
    attrs.extend(facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), fact?))));
    attrs
}

/// Writes what the provider says of the account.
fn renew_account(record: &mut InstallationRecord, account: Account, edit: &Edit<'_>) {
    let installation = &mut record.installation;
    let before = installation.clone();
    if account.login.is_some() {
        installation.account_login = account.login;
    }
    installation.metadata.extend(account.metadata);
    if let Value::Object(mut info) = account.info {
        // Members that only the connecting told (when it was installed, its raw answer) are kept.
        if let Some(Value::Object(known)) = installation.provider_account_info.take() {
            for (name, value) in known {
                info.entry(name).or_insert(value);
            }
        }
        info.insert("lastValidatedAt".into(), Value::String(edit.now.to_rfc3339()));
        installation.provider_account_info = Some(Value::Object(info));
    }
    if *installation != before {
        installation.updated_at = edit.now;
    }
}

/// Puts the linked resources right: facts of those listed, and the end of those that left.
fn renew_resources(
    record: &mut InstallationRecord,
    listing: &Listing,
    gone: &HashSet<ProviderResourceId>,
    edit: &Edit<'_>,
) {
    // What changed since the listing began is newer than the listing.
    let settled = |row: &Resource| row.status == ResourceStatus::Active && row.updated_at <= listing.began;
    let linked: HashSet<_> =
        record.resources.iter().filter(|row| settled(row)).map(|row| row.provider_resource_id.clone()).collect();
    let facts_of = |item: &VisibleResource| NewFacts {
        id: item.id.clone(),
        name: Some(shown_name(item)),
        slug: item.slug.clone(),
        attrs: attrs_of(item),
    };
    let news: Vec<_> = listing.items.iter().filter(|item| linked.contains(&item.id)).map(facts_of).collect();
    control::change_resources(record, &news, None, edit);
    let ids: Vec<_> = linked.intersection(gone).cloned().collect();
    if !ids.is_empty() {
        let left = ControlChange::ResourcesRemoved { ids, reason: RemovalReason::AccessLost };
        control::apply(record, &[left], None, edit);
    }
}

fn of_store(error: StoreError) -> AskError<ProviderCallError> {
    AskError::Reply(ProviderCallError::Store(error))
}

/// An edit's refusal, in the words of a call.
pub(super) fn of_edit(error: AskError<InstallationError>) -> AskError<ProviderCallError> {
    match error {
        AskError::Busy => AskError::Busy,
        AskError::Gone => AskError::Gone,
        AskError::TimedOut => AskError::TimedOut,
        AskError::Reply(InstallationError::NotFound) => AskError::Reply(ProviderCallError::NotFound),
        AskError::Reply(InstallationError::NotActive(status)) => AskError::Reply(ProviderCallError::NotActive(status)),
        AskError::Reply(InstallationError::Store(error)) => of_store(error),
        AskError::Reply(_) => AskError::Reply(ProviderCallError::Crashed),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(id: &str) -> VisibleResource {
        VisibleResource {
            id: ProviderResourceId::new(id),
            name: "tide-clock".into(),
            full_name: Some("harborworks/tide-clock".into()),
            slug: Some("tide".into()),
            private: Some(false),
            archived: None,
            default_branch: Some("trunk".into()),
            attrs: Map::new(),
        }
    }

    fn listing(ids: &[&str], is_complete: bool) -> Listing {
        let items = ids.iter().map(|id| item(id)).collect();
        Listing { items, is_complete, is_cut_off: false, began: EpochMs(1) }
    }

    #[test]
    fn a_resource_has_left_only_if_two_whole_listings_are_without_it() {
        let before: HashSet<_> = ["1", "2", "3"].map(ProviderResourceId::new).into();
        let missing = |listing: &Listing| {
            let mut missing: Vec<_> = listing.missing(&before).iter().map(ToString::to_string).collect();
            missing.sort_unstable();
            missing
        };
        assert_eq!(missing(&listing(&["1"], true)), ["2", "3"]);
        assert_eq!(missing(&listing(&["1"], false)), [""; 0]);
        let both = listing(&["1", "2"], true).joined_by(listing(&["1", "4"], true));
        assert_eq!((missing(&both), both.items.len()), (vec!["3".to_owned()], 3));
        for (first, second) in [(true, false), (false, true)] {
            assert_eq!(missing(&listing(&["1"], first).joined_by(listing(&["1"], second))), [""; 0]);
        }
    }

    #[test]
    fn a_list_that_was_not_read_to_its_end_does_not_say_that_something_is_missing() {
        let wanted: HashSet<_> = ["1", "3", "2"].map(ProviderResourceId::new).into();
        let whole = listing(&["1", "4"], true);
        assert_eq!(whole.lacks(&wanted).expect("known"), ["2", "3"].map(ProviderResourceId::new).into());
        let cut_off = Listing { is_cut_off: true, ..listing(&["1", "4"], false) };
        let told = cut_off.lacks(&wanted).expect_err("perhaps further on").to_string();
        assert!(told.contains("2 is not among the first 2"), "{told}");
        let cut_off = Listing { is_cut_off: true, ..listing(&["3", "1", "2"], false) };
        assert_eq!(cut_off.lacks(&wanted).expect("found in time"), HashSet::new());
    }

    #[test]
    fn what_the_caller_gave_is_kept_and_the_rest_is_the_providers_word() {
        let link = |name: Option<&str>, attrs: Value| LinkResource {
            provider_resource_id: ProviderResourceId::new("1"),
            name: name.map(str::to_owned),
            slug: None,
            attrs: attrs.as_object().cloned().unwrap_or_default(),
        };
        let mut links = [link(None, json!({})), link(Some("mine"), json!({"isPrivate": true}))];
        fill_in(&mut links, &HashSet::from([ProviderResourceId::new("1")]), &listing(&["1", "2"], true));
        assert_eq!(links[0].name.as_deref(), Some("harborworks/tide-clock"));
        let facts = json!({"fullName": "harborworks/tide-clock", "isPrivate": false, "defaultBranch": "trunk"});
        assert_eq!(Value::Object(links[0].attrs.clone()), facts);
        assert_eq!((links[1].name.as_deref(), links[1].slug.as_deref()), (Some("mine"), Some("tide")));
        assert_eq!(links[1].attrs["isPrivate"], json!(true));
    }
}
