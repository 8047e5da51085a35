//! The providers' ids of the tenants: a fixed text and seven digits, so that one tenant's can be written over another's.
//!
//! **Owns** which number is whose: a group's tenants follow its base.

use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{Facts, SimulatedProvider},
};

/// Digits at the end of every id.
pub const DIGITS: usize = 7;

/// The number of the first tenant of the group at that place.
pub fn base_of_group(place: usize) -> usize {
    (place + 1) * 1_000_000
}

/// The fixed text before the digits.
#[derive(Debug, Clone, Copy)]
pub struct Prefixes {
    /// Of the installation.
    pub installation: &'static str,
    /// Of its second id, where there is one.
    pub alternate: Option<&'static str>,
    /// Of the resource.
    pub resource: &'static str,
}

/// Those of a provider.
pub fn prefixes(provider: &SimulatedProvider) -> Prefixes {
    let (installation, alternate, resource) = match provider.slug {
        "github" => ("58", None, "771"),
        "vercel" => ("team_Zr5mQ1aHcW", Some("icfg_4Wc0YtB7nL"), "prj_hT3vK9sLd2Q"),
        "linear" => ("a9c0d1e2-3344-4556-8778-99aa0", None, "f1a2b3c4-5d6e-4f70-8a9b-0c1d0"),
        _ => ("3e1d5b7a-9c20-4b6f-8f11-7a2c0", None, "4507811"),
    };
    Prefixes { installation, alternate, resource }
}

/// Facts of an event of the tenant with these numbers.
pub fn facts(provider: &SimulatedProvider, installation: usize, resource: usize, seed: u64) -> Facts {
    let prefixes = prefixes(provider);
    Facts {
        external_id: format!("{}{installation:07}", prefixes.installation),
        alternate_external_id: prefixes.alternate.map(|text| format!("{text}{installation:07}")).unwrap_or_default(),
        resource_id: format!("{}{resource:07}", prefixes.resource),
        ..provider.facts(1, seed, SystemClock.now())
    }
}
