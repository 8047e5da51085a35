//! What a scenario file says: tenants, phases, goals.
//!
//! **Invariants.** An unknown member is a mistake. A scenario names only tenants and phases that it has.
//!
//! **Must not know** how anything is run.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::{floor::FloorKind, goal::Goal};

/// A phase that is made shorter is never shorter than this: the sampler looks once a second.
const LEAST_SECONDS: f64 = 1.0;

/// A whole scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What its results are filed under.
    pub name: String,
    /// What it shows, in a sentence.
    pub proves: String,
    /// Gateway processes on one database.
    #[serde(default = "one")]
    pub nodes: usize,
    /// Whether it needs PostgreSQL.
    #[serde(default)]
    pub postgres_only: bool,
    /// Settings of the gateway.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Servers to compare with, measured in the same run.
    #[serde(default)]
    pub floors: Option<Floors>,
    /// What is posted.
    #[serde(default)]
    pub events: Events,
    /// Who is connected and who listens.
    pub tenants: Vec<Tenants>,
    /// What happens, in order.
    #[serde(rename = "phase")]
    pub phases: Vec<Phase>,
    /// What the figures should be.
    #[serde(rename = "goal", default)]
    pub goals: Vec<Goal>,
}

/// Which reference servers, and for how long each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floors {
    /// Which.
    pub kinds: Vec<FloorKind>,
    /// Seconds each.
    pub seconds: f64,
    /// Connections, as in the phases it is compared with.
    #[serde(default = "connections")]
    pub connections: usize,
}

/// A mix of webhooks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Shares of the providers, by slug.
    pub providers: BTreeMap<String, u32>,
    /// Shares of body sizes.
    pub sizes: Vec<Size>,
    /// Memory for requests that are signed before the clock starts; later ones are signed as they are sent.
    pub pool_megabytes: usize,
}

/// A share of bodies of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Bytes of the body. An event that has more by itself keeps them.
    pub bytes: usize,
    /// Its share.
    #[serde(default = "one_share")]
    pub weight: u32,
}

/// A group of installations that are treated alike. Each group is an org.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenants {
    /// What phases call it; also the org.
    pub name: String,
    /// Installations of each provider in the mix.
    #[serde(default = "one")]
    pub installations: usize,
    /// Resources of each installation, each event is of one of them.
    #[serde(default = "one")]
    pub resources: usize,
    /// Workspaces subscribed to each resource: deliveries per event.
    #[serde(default = "one")]
    pub workspaces: usize,
    /// Exponent of the Zipf distribution of events over resources; 0 is even.
    #[serde(default)]
    pub zipf: f64,
    /// Who receives.
    #[serde(default)]
    pub destination: Destination,
}

/// How a destination treats what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Destination {
    /// Answers 200 at once.
    #[default]
    Good,
    /// There is none: rows are committed, nothing is sent.
    None,
    /// Answers 200 after two seconds.
    Slow,
    /// Reads and never answers.
    Hang,
    /// Answers 503 at once.
    Down,
    /// Nobody listens.
    Refuse,
}

/// A stretch of time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// The first half of its figures' names.
    pub name: String,
    /// How long events are posted, or, without tenants, how long nothing is.
    #[serde(default)]
    pub seconds: f64,
    /// Whose events; without it none are posted.
    #[serde(default)]
    pub tenants: Option<String>,
    /// Another exponent than the tenants' own; 0 has everybody in turn.
    #[serde(default)]
    pub zipf: Option<f64>,
    /// Connections, one request at a time on each.
    #[serde(default = "connections")]
    pub connections: usize,
    /// Events per second; without it a closed loop.
    #[serde(default)]
    pub rate: Option<f64>,
    /// The rate as a multiple of what an earlier phase reached.
    #[serde(default)]
    pub rate_of: Option<RateOf>,
    /// Other sizes than the scenario's.
    #[serde(default)]
    pub sizes: Option<Vec<Size>>,
    /// How many times each event is posted, at about the same time.
    #[serde(default = "one")]
    pub copies: usize,
    /// Whether signatures are wrong.
    #[serde(default)]
    pub bad_signatures: bool,
    /// How long to wait for the last deliveries.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: f64,
    /// Another store than the first, by a name: made with the same tenants when it is first named, and kept. Before the
    /// phase the gateway is stopped and started on it, and a phase without a name goes back to the first. What a small
    /// store costs can so be measured right beside what a large one costs that takes an hour to fill.
    #[serde(default)]
    pub store: Option<String>,
    /// Before the phase the gateway is stopped, the store filled to this many events, and the gateway started.
    #[serde(default)]
    pub stored_events: Option<u64>,
    /// Likewise: this many deliveries under leases of a process that is gone.
    #[serde(default)]
    pub open_deliveries: Option<u64>,
    /// Before the phase the gateway is stopped so and started.
    #[serde(default)]
    pub restart: Option<Ending>,
    /// A node that is killed in the middle.
    #[serde(default)]
    pub kill: Option<Kill>,
    /// What else goes on.
    #[serde(default)]
    pub beside: Vec<Beside>,
}

/// A rate found in this run.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateOf {
    /// The earlier phase whose acknowledgements per second count.
    pub phase: String,
    /// Times this.
    pub times: f64,
}

/// How a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// A node that dies.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Which, from 0.
    pub node: usize,
    /// How far into the phase: 0 to 1.
    pub at: f64,
}

/// Load that is not measured but borne.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Beside {
    /// Honest events of other tenants.
    Events {
        /// Whose.
        tenants: String,
        /// Events per second.
        rate: f64,
        /// On how many connections.
        #[serde(default = "connections")]
        connections: usize,
    },
    /// Wrongly signed ones.
    BadSignatures {
        /// Whose.
        tenants: String,
        /// Requests per second.
        rate: f64,
        /// On how many connections.
        #[serde(default = "connections")]
        connections: usize,
    },
    /// Clients that send a byte a second.
    Slowloris {
        /// How many.
        connections: usize,
        /// Where they dawdle.
        part: Part,
    },
    /// Connections on which nothing is sent.
    Idle {
        /// How many.
        connections: usize,
    },
}

/// A part of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Its headers.
    Head,
    /// Its body.
    Body,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            providers: BTreeMap::from([("github".to_owned(), 1)]),
            sizes: vec![Size { bytes: 8192, weight: 1 }],
            pool_megabytes: 256,
        }
    }
}

fn one() -> usize {
    1
}

fn one_share() -> u32 {
    1
}

fn connections() -> usize {
    64
}

fn drain_seconds() -> f64 {
    60.0
}

impl Scenario {
    /// Reads a scenario file; a bare name is looked up in the scenarios beside this crate's sources.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let of_that_name = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(path).with_extension("toml");
        let path = if path.is_file() { path.to_owned() } else { of_that_name };
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads a scenario.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        scenario.validate()?;
        Ok(scenario)
    }

    /// Whether everything it names is there.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.nodes > 0 && !self.phases.is_empty(), "a scenario has a node and a phase");
        ensure!((1..=8).contains(&self.tenants.len()), "a scenario has one to eight groups of tenants");
        for tenants in &self.tenants {
            ensure!(
                tenants.installations * tenants.resources > 0
                    && tenants.installations * tenants.resources < 1_000_000
                    && tenants.workspaces > 0,
                "{} has nobody, or too many",
                tenants.name
            );
        }
        for provider in self.events.providers.keys() {
            ensure!(signalbox::sim::find(provider).is_some(), "no provider is called {provider}");
        }
        let mut earlier: Vec<&str> = Vec::new();
        for phase in &self.phases {
            let mut named: Vec<&str> = phase.tenants.as_deref().into_iter().collect();
            for beside in &phase.beside {
                if let Beside::Events { tenants, .. } | Beside::BadSignatures { tenants, .. } = beside {
                    named.push(tenants);
                }
            }
            for name in named {
                ensure!(self.group(name).is_some(), "phase {} names tenants {name} that there are not", phase.name);
            }
            if let Some(of) = &phase.rate_of
                && !earlier.contains(&of.phase.as_str())
            {
                bail!("phase {} takes its rate from {}, which is no earlier phase", phase.name, of.phase);
            }
            ensure!(phase.connections > 0 && phase.copies > 0, "phase {} has no connections or no copies", phase.name);
            if let Some(kill) = &phase.kill {
                ensure!(kill.node < self.nodes && self.nodes > 1, "phase {} kills a node too many", phase.name);
            }
            earlier.push(&phase.name);
        }
        for goal in &self.goals {
            goal.validate(|figure| {
                let phase = figure.split_once('.').map_or(figure, |(phase, _)| phase);
                matches!(phase, "run" | "floor") || earlier.contains(&phase)
            })?;
        }
        Ok(())
    }

    /// The tenants of that name, with their place.
    pub fn group(&self, name: &str) -> Option<(usize, &Tenants)> {
        self.tenants.iter().enumerate().find(|(_, tenants)| tenants.name == name)
    }

    /// Gives the longest phase this length and scales the others by the same factor: what is compared stays comparable.
    pub fn set_seconds(&mut self, seconds: f64) {
        let longest = self.phases.iter().map(|phase| phase.seconds).fold(0.0, f64::max);
        for phase in self.phases.iter_mut().filter(|phase| phase.seconds > 0.0) {
            phase.seconds = (phase.seconds * seconds / longest).max(LEAST_SECONDS);
        }
    }

    /// Makes it small: to see that it works, not to learn a figure.
    pub fn make_quick(&mut self) {
        for tenants in &mut self.tenants {
            tenants.installations = tenants.installations.min(2000);
        }
        if let Some(floors) = &mut self.floors {
            floors.seconds = floors.seconds.min(2.0);
        }
        for phase in &mut self.phases {
            phase.seconds = phase.seconds.min(4.0);
            phase.stored_events = phase.stored_events.map(|count| count.min(100_000));
            phase.open_deliveries = phase.open_deliveries.map(|count| count.min(20_000));
            for beside in &mut phase.beside {
                if let Beside::Slowloris { connections, .. } | Beside::Idle { connections } = beside {
                    *connections = (*connections).min(500);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Scenario> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut paths: Vec<_> =
            std::fs::read_dir(folder).expect("a folder").flatten().map(|file| file.path()).collect();
        paths.sort();
        paths
            .iter()
            .map(|path| {
                let scenario = Scenario::load(path).expect("a scenario");
                assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(scenario.name.as_str()));
                scenario
            })
            .collect()
    }

    #[test]
    fn every_scenario_file_is_understood_and_named_as_its_file() {
        let scenarios = all();
        assert!(scenarios.len() >= 13, "there are {}", scenarios.len());
        assert!(scenarios.iter().all(|scenario| !scenario.proves.is_empty()));
    }

    #[test]
    fn a_quick_scenario_is_still_one() {
        for mut scenario in all() {
            scenario.make_quick();
            scenario.validate().expect(&scenario.name);
        }
    }

    #[test]
    fn all_phases_get_shorter_or_longer_by_one_factor_and_none_shorter_than_a_second() {
        let text = "name = \"x\"\nproves = \"y\"\n[[tenants]]\nname = \"a\"\n".to_owned();
        let phases = [40, 20, 1, 0].map(|seconds| format!("[[phase]]\nname = \"p{seconds}\"\nseconds = {seconds}\n"));
        let scenario = Scenario::parse(&(text + &phases.concat())).expect("a scenario");
        for (seconds, expected) in [(10.0, [10.0, 5.0, 1.0, 0.0]), (80.0, [80.0, 40.0, 2.0, 0.0])] {
            let mut scaled = scenario.clone();
            scaled.set_seconds(seconds);
            assert_eq!(scaled.phases.iter().map(|phase| phase.seconds).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn an_unknown_member_a_strange_phase_and_strange_tenants_are_mistakes() {
        const GOOD: &str =
            "name = \"x\"\nproves = \"y\"\n[[tenants]]\nname = \"a\"\n[[phase]]\nname = \"p\"\ntenants = \"a\"\n";
        Scenario::parse(GOOD).expect("a good one");
        for (from, to) in [
            ("proves", "colour = 1\nproves"),
            ("tenants = \"a\"", "tenants = \"b\""),
            ("tenants = \"a\"", "tenants = \"a\"\nrate_of = { phase = \"later\", times = 1 }"),
            ("tenants = \"a\"", "tenants = \"a\"\nkill = { node = 0, at = 0.5 }"),
            ("tenants = \"a\"", "tenants = \"a\"\n[[goal]]\nsays = \"s\"\nfigure = \"q.acks\"\nat_most = 1"),
            ("tenants = \"a\"", "tenants = \"a\"\n[[goal]]\nsays = \"s\"\nfigure = \"p.acks\""),
        ] {
            assert!(Scenario::parse(&GOOD.replace(from, to)).is_err(), "{to}");
        }
    }
}
