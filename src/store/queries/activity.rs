//! Activity: counts by the minute, of each org and of everybody together (who is stored as the org without a name).

use super::{Fields, Session, query, row_statement::RowStatement, text};
use crate::{
    model::{
        activity::{Activity, ActivityCounts, MINUTE_MS},
        clock::EpochMs,
        ids::OrgId,
    },
    store::StoreResult,
};

static ADD: RowStatement = RowStatement::new(
    "INSERT INTO gw_activity (org_id, minute, provider, routed, filtered, unrouted, ignored, control, duplicates, refused, \
     delivered, dead) SELECT * FROM",
    12,
    "ON CONFLICT (org_id, minute, provider) DO UPDATE SET routed = gw_activity.routed + excluded.routed, \
     filtered = gw_activity.filtered + excluded.filtered, unrouted = gw_activity.unrouted + excluded.unrouted, \
     ignored = gw_activity.ignored + excluded.ignored, control = gw_activity.control + excluded.control, \
     duplicates = gw_activity.duplicates + excluded.duplicates, refused = gw_activity.refused + excluded.refused, \
     delivered = gw_activity.delivered + excluded.delivered, dead = gw_activity.dead + excluded.dead",
);

pub(super) const LIST: &str = "SELECT minute / $4 * $4, provider, CAST(SUM(routed) AS BIGINT), \
     CAST(SUM(filtered) AS BIGINT), CAST(SUM(unrouted) AS BIGINT), CAST(SUM(ignored) AS BIGINT), \
     CAST(SUM(control) AS BIGINT), CAST(SUM(duplicates) AS BIGINT), CAST(SUM(refused) AS BIGINT), \
     CAST(SUM(delivered) AS BIGINT), CAST(SUM(dead) AS BIGINT) FROM gw_activity \
     WHERE org_id = $1 AND minute >= $2 AND minute < $3 GROUP BY 1, 2 ORDER BY 1, 2";

fn name_of(org: Option<&OrgId>) -> &str {
    org.map_or("", OrgId::as_str)
}

fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) async fn add(db: &mut Session<'_>, counted: &[Activity]) -> StoreResult<()> {
    // In one order everywhere: two nodes that count the same minutes wait for each other and never in a circle.
    let mut rows: Vec<&Activity> = counted.iter().collect();
    rows.sort_by(|a, b| {
        (name_of(a.org.as_ref()), a.at, &a.provider).cmp(&(name_of(b.org.as_ref()), b.at, &b.provider))
    });
    ADD.execute(db.conn, &rows, |row, activity| {
        let counts = &activity.counts;
        row.bind(&*text(name_of(activity.org.as_ref())))
            .bind(activity.at.0 / MINUTE_MS)
            .bind(activity.provider.as_str())
            .bind(stored(counts.routed))
            .bind(stored(counts.filtered))
            .bind(stored(counts.unrouted))
            .bind(stored(counts.ignored))
            .bind(stored(counts.control))
            .bind(stored(counts.duplicates))
            .bind(stored(counts.refused))
            .bind(stored(counts.delivered))
            .bind(stored(counts.dead));
    })
    .await?;
    Ok(())
}

pub(crate) async fn list(
    db: &mut Session<'_>,
    org: Option<&OrgId>,
    since: EpochMs,
    until: EpochMs,
    minutes: u32,
) -> StoreResult<Vec<Activity>> {
    let found = query(LIST)
        .bind(text(name_of(org)).into_owned())
        .bind(since.0 / MINUTE_MS)
        .bind(until.0 / MINUTE_MS)
        .bind(i64::from(minutes.max(1)));
    let rows = found.fetch_all(&mut *db.conn).await?;
    rows.iter()
        .map(|row| {
            let mut fields = Fields::new(row);
            let at = EpochMs(fields.get::<i64>()?.saturating_mul(MINUTE_MS));
            let provider = fields.get()?;
            let mut counted = || fields.number("count");
            let counts = ActivityCounts {
                routed: counted()?,
                filtered: counted()?,
                unrouted: counted()?,
                ignored: counted()?,
                control: counted()?,
                duplicates: counted()?,
                refused: counted()?,
                delivered: counted()?,
                dead: counted()?,
            };
            Ok(Activity { org: org.cloned(), at, provider, counts })
        })
        .collect()
}
