//! Backfill runs and heal runs.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, json};
use signalbox::{
    model::{
        backfill_run::{BackfillRun, BackfillStatus},
        clock::EpochMs,
        heal_run::{HealRun, HealStatus},
        ids::{BackfillRunId, InstallationId},
        log_entry::Actor,
    },
    store::{PageRequest, RetentionCutoffs},
};

use crate::{
    GITHUB, LINEAR, START, TestStore,
    fixtures::{org, page},
};

impl TestStore {
    fn backfill_run(&self, installation: &InstallationId) -> BackfillRun {
        BackfillRun {
            id: self.ids.backfill_run(),
            installation: installation.clone(),
            org: org(),
            provider: GITHUB,
            status: BackfillStatus::Running,
            depth_days: Some(90),
            entity_types: vec!["issue".into(), "pull_request".into()],
            counts: Map::from_iter([("issues".to_owned(), json!(7))]),
            error: None,
            started_at: Some(self.now()),
            finished_at: None,
            created_at: self.now(),
            updated_at: self.now(),
        }
    }

    async fn stored_run(&self, id: &BackfillRunId) -> BackfillRun {
        self.find_backfill_run(id).await.expect("read").expect("there")
    }
}

store_suite! {
    async fn a_backfill_run_is_inserted_and_then_replaced(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let run = store.backfill_run(&installation.id);
        store.save_backfill_run(&run, None).await.expect("saved");
        assert_eq!(store.stored_run(&run.id).await, run);
        store.clock.advance(Duration::from_secs(1));
        let ended = BackfillRun {
            status: BackfillStatus::Failed,
            depth_days: None,
            error: Some("it said \"no\"".into()),
            finished_at: Some(store.now()),
            updated_at: store.now(),
            ..run
        };
        store.save_backfill_run(&ended, None).await.expect("saved");
        assert_eq!(store.stored_run(&ended.id).await, ended);
        assert_eq!(store.find_backfill_run(&BackfillRunId::from_raw("bfr_none")).await.expect("read"), None);
    }

    async fn an_installations_runs_are_listed_newest_first_and_cancelled_while_open(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let other = store.insert_installation_of("4712").await;
        let mut runs = Vec::new();
        for status in BackfillStatus::ALL {
            let run = BackfillRun { status, ..store.backfill_run(&installation.id) };
            store.save_backfill_run(&run, None).await.expect("saved");
            runs.insert(0, run);
            store.clock.advance(Duration::from_millis(1));
        }
        let elsewhere = store.backfill_run(&other.id);
        store.save_backfill_run(&elsewhere, None).await.expect("saved");
        let first = store.list_backfill_runs(&installation.id, page(3)).await.expect("read");
        assert_eq!(first.items, runs[..3]);
        let rest = PageRequest { limit: 3, cursor: first.next_cursor.as_deref() };
        let rest = store.list_backfill_runs(&installation.id, rest).await.expect("read");
        assert_eq!((rest.items.as_slice(), rest.next_cursor), (&runs[3..], None));

        store.clock.advance(Duration::from_secs(1));
        assert_eq!(store.cancel_backfill_runs(&installation.id, store.now()).await.expect("cancelled"), 2);
        assert_eq!(store.cancel_backfill_runs(&installation.id, store.now()).await.expect("cancelled"), 0);
        for run in runs {
            let expected = if run.status.is_final() {
                run
            } else {
                BackfillRun { status: BackfillStatus::Cancelled, finished_at: Some(store.now()), updated_at: store.now(), ..run }
            };
            assert_eq!(store.stored_run(&expected.id).await, expected);
        }
        assert_eq!(store.stored_run(&elsewhere.id).await, elsewhere);
    }

    async fn a_backfill_run_that_has_ended_is_not_opened_again_by_who_read_it_before(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        let run = store.backfill_run(&installation.id);
        assert!(store.save_backfill_run(&run, None).await.expect("saved"));
        store.cancel_backfill_runs(&installation.id, store.now()).await.expect("cancelled");
        let cancelled = store.stored_run(&run.id).await;
        store.clock.advance(Duration::from_millis(1));
        let entry = |run: &BackfillRun| run.entry(store.ids.log(), "backfill_run.reported", None, Actor::system());
        for status in [BackfillStatus::Pending, BackfillStatus::Running, BackfillStatus::Completed] {
            let late = BackfillRun { status, ..run.clone() };
            assert!(!store.save_backfill_run(&late, Some(&entry(&late))).await.expect("answered"), "{status}");
        }
        let log = async || store.list_log(None, None, page(1)).await.expect("read").items;
        assert_ne!(log().await[0].action, "backfill_run.reported", "nothing happened");
        assert_eq!(store.stored_run(&run.id).await, cancelled);
        let counted = BackfillRun { counts: Map::from_iter([("issues".to_owned(), json!(9))]), ..cancelled };
        let entry = entry(&counted);
        assert!(store.save_backfill_run(&counted, Some(&entry)).await.expect("saved"), "what it came to may be told late");
        assert_eq!(log().await, [entry]);
        assert_eq!(store.stored_run(&run.id).await, counted);
    }

    async fn old_backfill_runs_go_with_the_log_unless_they_are_open(store: TestStore) {
        let installation = store.insert_installation_of("4711").await;
        for status in BackfillStatus::ALL {
            let run = BackfillRun { status, ..store.backfill_run(&installation.id) };
            store.save_backfill_run(&run, None).await.expect("saved");
            store.clock.advance(Duration::from_millis(1));
        }
        store.clock.advance(Duration::from_secs(1));
        let young = BackfillRun { status: BackfillStatus::Completed, ..store.backfill_run(&installation.id) };
        store.save_backfill_run(&young, None).await.expect("saved");
        let cutoffs = RetentionCutoffs { events: START, dead_letters: START, quarantine: START, log: store.now(), flows: START, activity: START };
        assert_eq!(store.delete_expired(&cutoffs, 10).await.expect("deleted").runs, 3);
        let left = store.list_backfill_runs(&installation.id, page(10)).await.expect("read").items;
        let left: Vec<BackfillStatus> = left.into_iter().map(|run| run.status).collect();
        assert_eq!(left, [BackfillStatus::Completed, BackfillStatus::Running, BackfillStatus::Pending]);
    }

    async fn a_provider_is_healed_by_one_run_at_a_time(store: TestStore) {
        let runs: Vec<HealRun> = (0..8).map(|number| store.heal_run(&format!("node-{number}"))).collect();
        let begun = join_all(runs.iter().map(|run| store.begin_heal_run(run, EpochMs(0)))).await;
        let winners: Vec<&HealRun> =
            runs.iter().zip(begun).filter(|(_, won)| *won.as_ref().expect("answered")).map(|(run, _)| run).collect();
        let [winner] = winners.as_slice() else { panic!("{winners:?}") };
        assert_eq!(store.list_heal_runs(None, page(10)).await.expect("read").items, [(*winner).clone()]);
        store.clock.advance(Duration::from_millis(1));
        let elsewhere = HealRun { provider: LINEAR, ..store.heal_run("node-a") };
        assert!(store.begin_heal_run(&elsewhere, EpochMs(0)).await.expect("answered"));

        let ended = HealRun { status: HealStatus::Completed, finished_at: Some(store.now()), ..(*winner).clone() };
        store.save_heal_run(&ended).await.expect("saved");
        store.clock.advance(Duration::from_millis(1));
        let next = store.heal_run("node-a");
        assert!(store.begin_heal_run(&next, EpochMs(0)).await.expect("answered"));
        let listed = store.list_heal_runs(Some("github"), page(10)).await.expect("read").items;
        assert_eq!(listed, [next.clone(), ended.clone()]);
        let newest = store.list_heal_runs(None, page(2)).await.expect("read");
        assert_eq!(newest.items, [next, elsewhere]);
        let rest = PageRequest { limit: 2, cursor: newest.next_cursor.as_deref() };
        assert_eq!(store.list_heal_runs(None, rest).await.expect("read").items, [ended]);
    }

    async fn a_run_that_a_dead_node_left_fails_and_makes_room(store: TestStore) {
        let abandoned = store.heal_run("node-a");
        assert!(store.begin_heal_run(&abandoned, EpochMs(0)).await.expect("answered"));
        store.clock.advance(Duration::from_mins(1));
        let beaten = HealRun { examined: 9, updated_at: store.now(), ..abandoned };
        store.save_heal_run(&beaten).await.expect("saved");
        store.clock.advance(Duration::from_mins(1));
        let next = store.heal_run("node-b");
        assert!(!store.begin_heal_run(&next, store.at(-61_000)).await.expect("answered"), "it changed since");
        assert!(store.begin_heal_run(&next, store.at(-59_000)).await.expect("answered"));
        let failed = HealRun {
            status: HealStatus::Failed,
            error: Some("abandoned".into()),
            finished_at: Some(store.now()),
            updated_at: store.now(),
            ..beaten.clone()
        };
        assert_eq!(store.list_heal_runs(None, page(10)).await.expect("read").items, [next.clone(), failed]);
        store.save_heal_run(&beaten).await.expect("answered");
        store.save_heal_run(&HealRun { examined: 1, owner: "node-c".into(), ..next.clone() }).await.expect("answered");
        let listed = store.list_heal_runs(None, page(1)).await.expect("read").items;
        assert_eq!(listed, [next], "neither a failed run nor another node's is written");
    }
}
