//! The end of a suspension that nobody told of: what the provider says of the account of a suspended installation.
//!
//! **Invariants**: nobody is given a token of a suspended installation; nothing but the provider's word that it goes on
//! ends a suspension. **Must not know** which providers suspend.

use super::{SupervisorDeps, renewal::open_held};
use crate::{
    actors::tokens::{TokenError, get_connector},
    model::installation::Installation,
    providers::{ConnectorError, connector::Grant},
};

/// Whether a suspended installation is suspended still, by its provider's word; also if nothing is there to ask with.
pub(crate) async fn is_suspended(
    deps: &SupervisorDeps,
    seen: &Installation,
) -> Result<Result<bool, ConnectorError>, TokenError> {
    let connector = get_connector(&deps.registry, seen.provider)?;
    let grant = Grant::of(seen, deps.clock.now());
    if !connector.keeps_tokens() {
        // None is minted for one that is suspended.
        return Ok(connector.renew_token(&grant, None).await.map(|_minted| false));
    }
    let Some(row) = deps.store.find_token(&seen.id).await? else { return Ok(Ok(true)) };
    let held = open_held(deps, &row)?;
    Ok(match connector.read_account(&grant, &held.access).await {
        // It may have died of age meanwhile.
        Err(ConnectorError::Unauthorized | ConnectorError::Rejected | ConnectorError::NotAccessible) => Ok(true),
        read => read.map(|account| account.suspended),
    })
}
