//! Teardowns: begun and ended with their installation, worked on under a lease.

use std::time::Duration;

use futures_util::future::join_all;
use signalbox::{
    model::{
        ids::InstallationId,
        teardown::{StepStatus, Teardown, TeardownStatus},
    },
    store::InstallationRecord,
};

use crate::TestStore;

impl TestStore {
    async fn write_teardown(&self, teardown: &Teardown) {
        let written = teardown.clone();
        let change = Box::new(move |record: &mut InstallationRecord| {
            record.teardown = Some(written);
            true
        });
        let changed = self.change_installation(&teardown.installation, change).await.expect("changed").expect("there");
        assert_eq!(changed.teardown.as_ref(), Some(teardown));
    }

    async fn torn_down(&self, external_id: &str) -> Teardown {
        let teardown = self.teardown(&self.insert_installation_of(external_id).await.id);
        self.write_teardown(&teardown).await;
        teardown
    }

    async fn stored_teardown(&self, id: &InstallationId) -> Teardown {
        self.find_teardown(id).await.expect("read").expect("it is there")
    }

    /// Leases for ten seconds.
    async fn lease(&self, teardown: &Teardown, owner: &str) -> Option<Teardown> {
        let leasing = self.claim_teardown(&teardown.installation, owner, self.now(), self.at(10_000));
        leasing.await.expect("answered")
    }
}

store_suite! {
    async fn a_teardown_is_part_of_its_installations_record(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        assert_eq!(store.find_teardown(&installation.id).await.expect("read"), None);
        let loaded = store.load_installation(&installation.id).await.expect("read").expect("there");
        assert_eq!(loaded.teardown, None);
        let mut teardown = store.teardown(&installation.id);
        teardown.steps[2].detail = Some("token_expired".into());
        store.write_teardown(&teardown).await;
        assert_eq!(store.stored_teardown(&installation.id).await, teardown);
        let loaded = store.load_installation(&installation.id).await.expect("read").expect("there");
        assert_eq!(loaded.teardown, Some(teardown.clone()));
        // A later one replaces it.
        store.clock.advance(Duration::from_secs(5));
        let later = Teardown { reason: "provider_revoked".into(), ..store.teardown(&installation.id) };
        store.write_teardown(&later).await;
        assert_eq!(store.stored_teardown(&installation.id).await, later);
    }

    async fn running_teardowns_that_are_due_are_listed_the_longest_due_first(store: TestStore) {
        let mut expected = Vec::new();
        for (external, due_in, status) in [
            ("1", -1_000, TeardownStatus::Running),
            ("2", -3_000, TeardownStatus::Running),
            ("3", -2_000, TeardownStatus::Completed),
            ("4", 0, TeardownStatus::Running),
            ("5", 1, TeardownStatus::Running),
        ] {
            let id = store.insert_installation_of(external).await.id;
            let due_at = store.at(due_in);
            store.write_teardown(&Teardown { due_at, status, ..store.teardown(&id) }).await;
            if matches!(external, "1" | "2" | "4") {
                expected.push((due_at, id));
            }
        }
        expected.sort();
        let expected: Vec<InstallationId> = expected.into_iter().map(|(_, id)| id).collect();
        assert_eq!(store.list_due_teardowns(store.now(), 10).await.expect("read"), expected);
        assert_eq!(store.list_due_teardowns(store.now(), 1).await.expect("read"), expected[..1]);
    }

    async fn one_node_leases_a_teardown_until_the_lease_ends(store: TestStore) {
        let teardown = store.torn_down("4711").await;
        let owners: Vec<String> = (0..8).map(|number| format!("node-{number}")).collect();
        let tries = join_all(owners.iter().map(|owner| store.lease(&teardown, owner))).await;
        let won: Vec<Teardown> = tries.into_iter().flatten().collect();
        let [leased] = won.as_slice() else { panic!("{won:?}") };
        assert_eq!(*leased, Teardown { lease_owner: leased.lease_owner.clone(), due_at: store.at(10_000), ..teardown.clone() });
        assert!(store.list_due_teardowns(store.now(), 10).await.expect("read").is_empty());
        store.clock.advance(Duration::from_secs(10));
        assert_eq!(
            store.list_due_teardowns(store.now(), 10).await.expect("read"),
            std::slice::from_ref(&teardown.installation)
        );
        let taken_over = store.lease(&teardown, "node-x").await.expect("leased");
        assert_eq!(taken_over.lease_owner.as_deref(), Some("node-x"));

        let first = leased.lease_owner.as_deref().expect("it has an owner");
        assert!(!store.record_teardown(leased, first).await.expect("answered"), "it is node-x's by now");
        assert_eq!(store.stored_teardown(&teardown.installation).await, taken_over);
    }

    async fn progress_is_recorded_by_who_has_the_lease(store: TestStore) {
        let teardown = store.torn_down("4711").await;
        assert!(!store.record_teardown(&teardown, "node-a").await.expect("answered"), "nobody has");
        let mut leased = store.lease(&teardown, "node-a").await.expect("leased");
        leased.steps[1].status = StepStatus::Skipped;
        leased.steps[2].attempts = 1;
        leased.due_at = store.at(30_000);
        leased.lease_owner = None;
        assert!(!store.record_teardown(&leased, "node-b").await.expect("answered"));
        assert!(store.record_teardown(&leased, "node-a").await.expect("answered"));
        assert_eq!(store.stored_teardown(&teardown.installation).await, leased);
        assert!(!store.record_teardown(&leased, "node-a").await.expect("answered"), "the lease was given back");

        store.clock.advance(Duration::from_secs(30));
        let mut ended = store.lease(&teardown, "node-a").await.expect("leased");
        ended.status = TeardownStatus::Completed;
        ended.finished_at = Some(store.now());
        ended.lease_owner = None;
        assert!(store.record_teardown(&ended, "node-a").await.expect("answered"));
        assert_eq!(store.lease(&teardown, "node-a").await, None, "it is over");
    }

    async fn ending_a_teardown_with_its_installation_takes_the_lease_away(store: TestStore) {
        let teardown = store.torn_down("4711").await;
        let leased = store.lease(&teardown, "node-a").await.expect("leased");
        let ended = Teardown { status: TeardownStatus::Completed, lease_owner: None, ..leased.clone() };
        store.write_teardown(&ended).await;
        assert!(!store.record_teardown(&leased, "node-a").await.expect("answered"));
        assert_eq!(store.stored_teardown(&teardown.installation).await, ended);
    }

    async fn the_census_finds_what_a_teardown_left_behind(store: TestStore) {
        let token = store.insert_connected("4711").await;
        let id = token.installation.clone();
        let resource = store.resource(&id, "r1");
        let end = Teardown { status: TeardownStatus::Completed, finished_at: Some(store.now()), ..store.teardown(&id) };
        let link = Box::new(move |record: &mut InstallationRecord| {
            record.resources.push(resource);
            record.teardown = Some(end);
            true
        });
        store.change_installation(&id, link).await.expect("changed");
        let contradictions = store.take_census().await.expect("taken").contradictions;
        assert!(contradictions.is_empty(), "it was connected again since: {contradictions:?}");
        store.meddle("UPDATE gw_installations SET status = 'revoked'").await;
        store.contradicts_itself();
        let contradictions = store.take_census().await.expect("taken").contradictions;
        let of = |subject: &str| contradictions.iter().filter(|found| found.contains(subject)).count();
        assert_eq!((contradictions.len(), of("1 tokens"), of("1 active resources")), (2, 1, 1), "{contradictions:?}");
    }
}
