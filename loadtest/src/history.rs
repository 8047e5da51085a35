//! A long history of many orgs, for whoever looks for something in it.
//!
//! **Owns** what it looks like: one org with most of it, four hundred with some, one with next to nothing, and what belongs
//! to nobody; common and rare keys, outcomes and providers; one delivery for each event, every twentieth of them dead.
//!
//! **Invariants.** Rows are copies of rows that the gateway wrote; only ids, times and what filters ask about differ.

use anyhow::ensure;
use signalbox::model::clock::EpochMs;

use crate::database::{Database, Dialect, Seeding};

/// The org with most events.
pub const BIG: &str = "big";
/// The org that those with some are copied from.
pub const SMALL: &str = "small";
/// The org with few.
pub const FEW: &str = "few";

/// Orgs with some events.
const SMALL_ORGS: u64 = 400;
/// How far back it goes.
const SPAN_MS: i64 = 20 * 86_400_000;

/// When a history that ends now begins, and how long it is.
pub fn span(now: EpochMs) -> (EpochMs, i64) {
    (EpochMs(now.0 - SPAN_MS), SPAN_MS)
}

/// A part of the history: events of one org's one provider.
struct Part {
    org: &'static str,
    provider: &'static str,
    count: u64,
    /// Whether its events belong to nobody.
    is_unrouted: bool,
}

/// Fills a database in which the gateway has one event of each org and provider.
pub async fn seed(database: &mut Database, events: u64) -> anyhow::Result<()> {
    ensure!(events >= 1000, "a history of fewer than 1000 events says nothing");
    let part = |org, provider, share: u64| Part { org, provider, count: events * share / 1000, is_unrouted: false };
    let parts = [
        part(BIG, "github", 500),
        part(BIG, "vercel", 200),
        part(BIG, "linear", 80),
        part(BIG, "sentry", 20),
        part(SMALL, "github", 150),
        Part { is_unrouted: true, ..part(SMALL, "vercel", 50) },
        Part { count: 50, ..part(FEW, "github", 0) },
    ];
    for part in &parts {
        let mut seeding = database.begin().await?;
        seed_part(&mut seeding, part).await?;
        database.end(seeding, part.count).await?;
    }
    Ok(())
}

async fn seed_part(seeding: &mut Seeding, part: &Part) -> anyhow::Result<()> {
    let Part { org, provider, count, is_unrouted } = *part;
    let first = seeding.first_row();
    let step = SPAN_MS / i64::try_from(count.max(1))?;
    let begin = seeding.now() - SPAN_MS;
    let time = format!("({begin} + (i - {first}) * {step})");
    let of = format!("org_id = '{org}' AND provider = '{provider}'");
    let event = seeding.one(&format!("SELECT id FROM gw_events WHERE {of} ORDER BY id LIMIT 1")).await?;
    let delivery = seeding.one(&format!("SELECT id FROM gw_deliveries WHERE event_id = '{event}'")).await?;
    let own = |kind: &str| (org == SMALL).then(|| format!("'{kind}' || CAST(i % {SMALL_ORGS} AS TEXT)"));
    let nobody = |value: Option<String>| if is_unrouted { Some("NULL".to_owned()) } else { value };
    seeding
        .copy("gw_events", &format!("id = '{event}'"), count, &|column, sql: Dialect| match column {
            "id" => Some(sql.id("evt_", &time)),
            "provider_delivery_id" => Some(sql.random_id()),
            "body_digest" => Some("NULL".to_owned()),
            "received_at" => Some(time.clone()),
            "org_id" => nobody(own("org-")),
            "installation_id" => nobody(own("in_of_org_")),
            "event_key" => Some(format!(
                "CASE WHEN i % 50000 = 77 THEN '{provider}:rare' ELSE '{provider}:key-' || CAST(i % 40 AS TEXT) END"
            )),
            "outcome" if is_unrouted => Some("'unrouted'".to_owned()),
            "outcome" => Some(
                "CASE WHEN i % 10 = 0 THEN 'filtered' WHEN i % 5000 = 1 THEN 'ignored' ELSE 'routed' END".to_owned(),
            ),
            "held" => Some(sql.is("i % 20000 = 3")),
            _ => None,
        })
        .await?;
    if is_unrouted {
        return Ok(());
    }
    seeding
        .copy("gw_deliveries", &format!("id = '{delivery}'"), count, &|column, sql: Dialect| match column {
            "id" => Some(sql.id("dlv_", &time)),
            "event_id" => Some(sql.id("evt_", &time)),
            "org_id" => own("org-"),
            "status" => Some("CASE WHEN i % 20 = 0 THEN 'dead' ELSE 'delivered' END".to_owned()),
            "reason" => Some("CASE WHEN i % 20 = 0 THEN 'http_status' END".to_owned()),
            "due_at" | "created_at" | "finished_at" => Some(time.clone()),
            "lease_owner" => Some("NULL".to_owned()),
            _ => None,
        })
        .await
}
