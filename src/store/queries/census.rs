//! The census: what there is, and what contradicts itself.

use std::collections::BTreeMap;

use super::{Fields, Session, count, query, unhurried};
use crate::store::{Census, StoreResult};

/// What must not be, as `(a sentence's subject, the rows)`. Each query answers how many there are and one of them.
const CONTRADICTIONS: [(&str, &str); 14] = [
    // One that has none because it expired says so.
    (
        "routed events without a delivery",
        "SELECT COUNT(*), MIN(e.id) FROM gw_events e WHERE e.outcome = 'routed' \
         AND e.reason IS NULL AND NOT EXISTS (SELECT 1 FROM gw_deliveries d WHERE d.event_id = e.id)",
    ),
    (
        "events with a delivery that are not routed",
        "SELECT COUNT(*), MIN(e.id) FROM gw_events e WHERE e.outcome <> 'routed' \
         AND EXISTS (SELECT 1 FROM gw_deliveries d WHERE d.event_id = e.id)",
    ),
    (
        "deliveries without an event",
        "SELECT COUNT(*), MIN(d.id) FROM gw_deliveries d \
         WHERE NOT EXISTS (SELECT 1 FROM gw_events e WHERE e.id = d.event_id)",
    ),
    (
        "attempts without a delivery",
        "SELECT COUNT(*), MIN(a.id) FROM gw_attempts a \
         WHERE NOT EXISTS (SELECT 1 FROM gw_deliveries d WHERE d.id = a.delivery_id)",
    ),
    (
        "delivered deliveries without a successful attempt",
        "SELECT COUNT(*), MIN(d.id) FROM gw_deliveries d WHERE d.status = 'delivered' AND NOT EXISTS \
         (SELECT 1 FROM gw_attempts a WHERE a.delivery_id = d.id AND a.result = 'delivered')",
    ),
    (
        "dead deliveries without a reason",
        "SELECT COUNT(*), MIN(d.id) FROM gw_deliveries d WHERE d.status = 'dead' AND d.reason IS NULL",
    ),
    (
        "open deliveries with an end",
        "SELECT COUNT(*), MIN(d.id) FROM gw_deliveries d WHERE d.status IN ('pending', 'held') \
         AND d.finished_at IS NOT NULL",
    ),
    (
        "finished deliveries without an end",
        "SELECT COUNT(*), MIN(d.id) FROM gw_deliveries d WHERE d.status IN ('delivered', 'dead') \
         AND d.finished_at IS NULL",
    ),
    (
        "leased deliveries that are not pending",
        "SELECT COUNT(*), MIN(d.id) FROM gw_deliveries d WHERE d.lease_owner IS NOT NULL AND d.status <> 'pending'",
    ),
    (
        "held deliveries of events that are not held",
        "SELECT COUNT(*), MIN(d.id) FROM gw_deliveries d JOIN gw_events e ON e.id = d.event_id \
         WHERE d.status = 'held' AND NOT e.held",
    ),
    (
        "deliveries that count more attempts than there are",
        "SELECT COUNT(*), MIN(d.id) FROM gw_deliveries d \
         WHERE d.attempts > (SELECT COUNT(*) FROM gw_attempts a WHERE a.delivery_id = d.id)",
    ),
    (
        "deliveries whose due time is for first tries though they were tried",
        "SELECT COUNT(*), MIN(d.id) FROM gw_deliveries d \
         WHERE d.status = 'pending' AND d.is_retry <> (d.attempts > d.attempts_before_retry)",
    ),
    // An installation that was connected again keeps the receipt of its earlier teardown.
    (
        "tokens of installations that were torn down",
        "SELECT COUNT(*), MIN(i.id) FROM gw_tokens t JOIN gw_installations i ON i.id = t.installation_id \
         JOIN gw_teardowns w ON w.installation_id = i.id WHERE i.status = 'revoked' AND w.status = 'completed'",
    ),
    (
        "active resources of installations that were torn down",
        "SELECT COUNT(*), MIN(r.id) FROM gw_resources r JOIN gw_installations i ON i.id = r.installation_id \
         JOIN gw_teardowns w ON w.installation_id = i.id \
         WHERE r.status = 'active' AND i.status = 'revoked' AND w.status = 'completed'",
    ),
];

pub(crate) async fn take(db: &mut Session<'_>) -> StoreResult<Census> {
    unhurried(db.conn).await?;
    let events = count_by(db, "SELECT outcome, COUNT(*) FROM gw_events GROUP BY outcome").await?;
    let deliveries = count_by(db, "SELECT status, COUNT(*) FROM gw_deliveries GROUP BY status").await?;
    let mut contradictions = Vec::new();
    for (subject, sql) in CONTRADICTIONS {
        let row = query(sql).fetch_one(&mut *db.conn).await?;
        let mut fields = Fields::new(&row);
        let (rows, example) = (count(fields.get()?), fields.get::<Option<String>>()?);
        if let (1.., Some(example)) = (rows, example) {
            contradictions.push(format!("{rows} {subject}, such as {example}"));
        }
    }
    Ok(Census { events, deliveries, contradictions })
}

async fn count_by(db: &mut Session<'_>, sql: &'static str) -> StoreResult<BTreeMap<String, u64>> {
    let rows = query(sql).fetch_all(&mut *db.conn).await?;
    rows.iter()
        .map(|row| {
            let mut fields = Fields::new(row);
            Ok((fields.get()?, count(fields.get()?)))
        })
        .collect()
}
