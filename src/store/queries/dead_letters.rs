//! The dead letter queue.

use super::{Builder, Fields, Row, Session, count, push_given, text};
use crate::{
    model::{
        clock::EpochMs,
        ids::{InstallationId, OrgId},
        provider::ProviderDeliveryId,
    },
    store::{DeadLetter, StoreResult, known::KnownProviders},
};

const SELECT: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    ", ",
    event_columns!(),
    " FROM gw_deliveries d JOIN gw_events e ON e.id = d.event_id WHERE d.status = 'dead'"
);

pub(crate) async fn list(
    db: &mut Session<'_>,
    org: Option<&OrgId>,
    provider: Option<&str>,
    limit: u32,
    offset: u32,
) -> StoreResult<Vec<DeadLetter>> {
    let mut sql = Builder::new(SELECT);
    narrow(&mut sql, org, provider);
    sql.push(" ORDER BY d.id LIMIT ").push_bind(i64::from(limit)).push(" OFFSET ").push_bind(i64::from(offset));
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| letter(row, db.known)).collect()
}

pub(crate) async fn find(
    db: &mut Session<'_>,
    org: Option<&OrgId>,
    provider: &str,
    id: &ProviderDeliveryId,
) -> StoreResult<Vec<DeadLetter>> {
    let mut sql = Builder::new(SELECT);
    sql.push(" AND e.provider_delivery_id = ").push_bind(&*text(id.as_str()));
    narrow(&mut sql, org, Some(provider));
    let rows = sql.push(" ORDER BY d.id").build().fetch_all(&mut *db.conn).await?;
    rows.iter().map(|row| letter(row, db.known)).collect()
}

pub(crate) async fn list_of_installation(
    db: &mut Session<'_>,
    installation: &InstallationId,
    since: Option<EpochMs>,
    until: Option<EpochMs>,
    limit: u32,
) -> StoreResult<(Vec<DeadLetter>, u64)> {
    let dead_of_installation = |sql: &mut Builder| {
        // What would be sent to a disabled destination dies again at once; the configured default is never disabled. The org's dead letters are indexed; an installation's
        // events are all in its org.
        sql.push(concat!(
            " FROM gw_deliveries d JOIN gw_events e ON e.id = d.event_id WHERE d.status = 'dead' AND NOT EXISTS \
                 (SELECT 1 FROM gw_destinations t WHERE t.disabled_reason IS NOT NULL AND t.id = ",
            target_else!(),
            "NULL)) AND d.org_id = (SELECT i.org_id FROM gw_installations i WHERE i.id = "
        ));
        sql.push_bind(text(installation.as_str()).into_owned()).push(") AND e.installation_id = ");
        sql.push_bind(text(installation.as_str()).into_owned());
        if let Some(since) = since {
            sql.push(" AND e.received_at >= ").push_bind(since.0);
        }
        if let Some(until) = until {
            sql.push(" AND e.received_at < ").push_bind(until.0);
        }
    };
    let mut sql = Builder::new("SELECT COUNT(DISTINCT d.event_id)");
    dead_of_installation(&mut sql);
    let row = sql.build().fetch_one(&mut *db.conn).await?;
    let total = count(Fields::new(&row).get()?);
    let mut sql = Builder::new(concat!("SELECT ", delivery_columns!(), ", ", event_columns!()));
    dead_of_installation(&mut sql);
    sql.push(" AND d.event_id IN (SELECT DISTINCT d.event_id");
    dead_of_installation(&mut sql);
    sql.push(" ORDER BY d.event_id LIMIT ").push_bind(i64::from(limit)).push(") ORDER BY d.event_id, d.id");
    let rows = sql.build().fetch_all(&mut *db.conn).await?;
    let letters = rows.iter().map(|row| letter(row, db.known)).collect::<StoreResult<_>>()?;
    Ok((letters, total))
}

fn narrow(sql: &mut Builder, org: Option<&OrgId>, provider: Option<&str>) {
    push_given(sql, [(" AND d.org_id = ", org.map(OrgId::as_str)), (" AND e.provider = ", provider)]);
}

fn letter(row: &Row, known: &KnownProviders) -> StoreResult<DeadLetter> {
    let mut fields = Fields::new(row);
    Ok(DeadLetter { delivery: fields.delivery()?, event: fields.event(known)? })
}
