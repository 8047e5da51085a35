//! Writes what was converted, one installation at a time; what is here already stays as it is.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

use super::{
    convert::{INSTALLATIONS, INTEGRATIONS, InstallationPlan, OpenToken, RESOURCES, TOKENS},
    report::Report,
};
use crate::{
    model::{
        clock::{EpochMs, Ids, SystemClock},
        ids::{InstallationId, ResourceId},
        installation::{Installation, InstallationStatus},
        integration::Integration,
        log_entry::{Actor, LogEntry},
        resource::Resource,
        token::{SealedToken, TokenEdit},
    },
    store::{InstallationRecord, Store},
    vault::{SealedAt, Vault},
};

/// Where it is written to.
pub(super) struct Target<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) vault: &'a Vault,
    pub(super) now: EpochMs,
    pub(super) dry_run: bool,
}

/// Writes every plan, and counts in the report.
pub(super) async fn apply(
    target: &Target<'_>,
    plans: Vec<InstallationPlan>,
    report: &mut Report,
) -> anyhow::Result<()> {
    for plan in plans {
        let origin = plan.origin.clone();
        apply_one(target, plan, report).await.with_context(|| format!("the installation {origin}"))?;
    }
    Ok(())
}

async fn apply_one(target: &Target<'_>, plan: InstallationPlan, report: &mut Report) -> anyhow::Result<()> {
    let InstallationPlan { origin, installation, token, resources, integrations } = plan;
    let found = match find_existing(target.store, &installation).await? {
        Existing::OtherOrg => {
            let reason = "its account is connected here, by another org";
            report.refuse(INSTALLATIONS, &origin, reason);
            token.iter().for_each(|(id, _)| report.refuse(TOKENS, id, reason));
            resources.iter().flat_map(|(id, _)| id).for_each(|id| report.refuse(RESOURCES, id, reason));
            integrations.iter().for_each(|(id, _)| report.refuse(INTEGRATIONS, id, reason));
            return Ok(());
        }
        Existing::None => None,
        Existing::Here(id) => Some((id, false)),
        Existing::Adopted(id) => Some((id, true)),
    };
    let additions = Additions {
        resources: resources.into_iter().map(|(id, resource)| (id.is_some(), resource)).collect(),
        integrations: integrations.into_iter().map(|(_, integration)| integration).collect(),
        token: None,
        entry: imported_entry(target.now, &installation),
    };
    let done = match found {
        Some((id, adopted)) => {
            report.table(INSTALLATIONS).already_here += 1;
            // An imported row that has no token any more lost it here; one that was adopted never had one.
            let lacks_token = adopted && target.store.find_token(&id).await?.is_none();
            let additions = match &token {
                Some((_, token)) if lacks_token => Additions { token: Some(seal(target, &id, token)?), ..additions },
                _ => additions,
            };
            if token.is_some() {
                let counts = report.table(TOKENS);
                if lacks_token { counts.imported += 1 } else { counts.already_here += 1 }
            }
            merge(target, &id, additions).await?
        }
        None => {
            report.table(INSTALLATIONS).imported += 1;
            report.table(TOKENS).imported += u64::from(token.is_some());
            if target.dry_run {
                additions.add_to(&mut empty_record(installation)).1
            } else {
                let token = token.map(|(_, token)| seal(target, &installation.id, &token)).transpose()?;
                let entry = imported_entry(target.now, &installation);
                target.store.insert_connection(&installation, token.as_ref(), &entry).await?;
                merge(target, &installation.id, additions).await?
            }
        }
    };
    report.table(RESOURCES).imported += done.resources.0;
    report.table(RESOURCES).already_here += done.resources.1;
    report.table(INTEGRATIONS).imported += done.integrations.0;
    report.table(INTEGRATIONS).already_here += done.integrations.1;
    Ok(())
}

/// What is here of an installation that is to be imported.
enum Existing {
    /// Nothing.
    None,
    /// Itself, from an import before.
    Here(InstallationId),
    /// Its account, connected here by the same org.
    Adopted(InstallationId),
    /// Its account, connected here by another.
    OtherOrg,
}

async fn find_existing(store: &dyn Store, installation: &Installation) -> anyhow::Result<Existing> {
    if let Some(here) = store.find_installation(&installation.id).await? {
        let same = here.org == installation.org;
        return Ok(if same { Existing::Here(here.id) } else { Existing::OtherOrg });
    }
    if installation.status == InstallationStatus::Revoked {
        return Ok(Existing::None);
    }
    let live = store.find_live_installation(installation.provider, &installation.external_id).await?;
    Ok(match live {
        None => Existing::None,
        Some(live) if live.org == installation.org => Existing::Adopted(live.id),
        Some(_) => Existing::OtherOrg,
    })
}

/// Rows to add, where they are missing.
struct Additions {
    /// Each with whether a row of its own named it.
    resources: Vec<(bool, Resource)>,
    integrations: Vec<Integration>,
    token: Option<SealedToken>,
    entry: LogEntry,
}

/// `(added, here already)`
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    resources: (u64, u64),
    integrations: (u64, u64),
}

impl Additions {
    /// Adds what the record lacks; whether that was anything, and the counts.
    fn add_to(self, record: &mut InstallationRecord) -> (bool, Done) {
        let mut done = Done::default();
        let mut here: Vec<(ResourceId, ResourceId)> = Vec::with_capacity(self.resources.len());
        let into = record.installation.id.clone();
        let mut changed = false;
        for (is_row, mut resource) in self.resources {
            let same = |other: &&Resource| {
                other.id == resource.id || other.provider_resource_id == resource.provider_resource_id
            };
            if let Some(found) = record.resources.iter().find(same) {
                here.push((resource.id, found.id.clone()));
                done.resources.1 += u64::from(is_row);
                continue;
            }
            here.push((resource.id.clone(), resource.id.clone()));
            resource.installation = into.clone();
            record.resources.push(resource);
            done.resources.0 += u64::from(is_row);
            changed = true;
        }
        for mut integration in self.integrations {
            if let Some((_, found)) = here.iter().find(|(planned, _)| *planned == integration.resource) {
                integration.resource = found.clone();
            }
            let same = |other: &Integration| {
                other.id == integration.id
                    || (other.workspace == integration.workspace && other.resource == integration.resource)
            };
            if record.integrations.iter().any(same) {
                done.integrations.1 += 1;
                continue;
            }
            integration.installation = into.clone();
            record.integrations.push(integration);
            done.integrations.0 += 1;
            changed = true;
        }
        if let Some(token) = self.token {
            record.token = TokenEdit::Put(Box::new(token));
            changed = true;
        }
        if changed {
            record.log.push(LogEntry { installation: Some(into), ..self.entry });
        }
        (changed, done)
    }
}

async fn merge(target: &Target<'_>, id: &InstallationId, additions: Additions) -> anyhow::Result<Done> {
    if target.dry_run {
        let record = target.store.load_installation(id).await?;
        return Ok(record.map(|mut record| additions.add_to(&mut record).1).unwrap_or_default());
    }
    let counted: Arc<Mutex<Done>> = Arc::default();
    let counting = Arc::clone(&counted);
    let change = Box::new(move |record: &mut InstallationRecord| {
        let (changed, done) = additions.add_to(record);
        *counting.lock().unwrap_or_else(PoisonError::into_inner) = done;
        changed
    });
    target.store.change_installation(id, change).await?.context("it vanished")?;
    let done = *counted.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(done)
}

fn empty_record(installation: Installation) -> InstallationRecord {
    InstallationRecord {
        installation,
        resources: Vec::new(),
        integrations: Vec::new(),
        destinations: Vec::new(),
        teardown: None,
        token: TokenEdit::Keep,
        log: Vec::new(),
    }
}

fn seal(target: &Target<'_>, id: &InstallationId, token: &OpenToken) -> anyhow::Result<SealedToken> {
    let seal =
        |column, secret: &[u8]| target.vault.seal(SealedAt { table: "gw_tokens", row: id.as_str(), column }, secret);
    Ok(SealedToken {
        installation: id.clone(),
        access: seal("access_token", &token.access)?,
        refresh: token.refresh.as_ref().map(|refresh| seal("refresh_token", refresh)).transpose()?,
        token_type: token.token_type.clone(),
        scope: token.scope.clone(),
        expires_at: token.expires_at,
        refresh_expires_at: None,
        generation: 1,
        claim: None,
        created_at: token.created_at,
        updated_at: token.updated_at,
    })
}

fn imported_entry(now: EpochMs, installation: &Installation) -> LogEntry {
    LogEntry {
        id: Ids::new(Arc::new(SystemClock)).log(),
        org: Some(installation.org.clone()),
        installation: Some(installation.id.clone()),
        subject: None,
        action: "installation.imported".to_owned(),
        from_state: None,
        to_state: Some(installation.status.as_str().to_owned()),
        reason: Some("lightfast".to_owned()),
        actor: Actor { who: "cli".to_owned(), user: None, from: None },
        at: now,
    }
}
