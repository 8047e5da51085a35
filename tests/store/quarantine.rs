//! The quarantine and its bounds.

use std::time::Duration;

use bytes::Bytes;
use signalbox::{
    model::ids::QuarantineId,
    providers::VerifyError,
    store::{PageRequest, QuarantineBounds, Quarantined, StoreResult},
};

use crate::{GITHUB, LINEAR, TestStore, fixtures::page};

const WIDE: QuarantineBounds = QuarantineBounds { max_count: 100, max_bytes: 1_000_000 };

fn webhook(store: &TestStore, body: &str) -> Quarantined {
    store.clock.advance(Duration::from_millis(1));
    Quarantined {
        id: store.ids.quarantine(),
        provider: GITHUB,
        cause: "invalid_signature".into(),
        headers: r#"[["x-hub-signature-256","sha256=00"]]"#.into(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        body_sha256: format!("digest of {body}"),
        headers_sha256: "digest of a signature".into(),
        attempts: 1,
        received_at: store.now(),
        last_at: store.now(),
    }
}

async fn keep(store: &TestStore, webhook: &Quarantined, bounds: QuarantineBounds) -> StoreResult<(QuarantineId, u32)> {
    let mut kept = store.quarantine(std::slice::from_ref(webhook), bounds).await?;
    Ok(kept.pop().expect("an answer for each"))
}

/// The bodies of what is kept, oldest first.
async fn bodies(store: &TestStore) -> Vec<String> {
    let kept = store.list_quarantined_bodies(None, None, 10).await.expect("read").into_iter();
    kept.map(|webhook| String::from_utf8_lossy(&webhook.body).into_owned()).collect()
}

store_suite! {
    async fn a_quarantined_webhook_is_listed_without_and_read_with_its_body(store: TestStore) {
        let first = webhook(&store, "first");
        let second = Quarantined { provider: LINEAR, ..webhook(&store, "second") };
        for webhook in [&first, &second] {
            assert_eq!(keep(&store, webhook, WIDE).await.expect("kept"), (webhook.id.clone(), 1));
        }
        let listed = store.list_quarantined(None, page(10)).await.expect("read");
        let bodiless = |webhook: &Quarantined| Quarantined { body: Bytes::new(), ..webhook.clone() };
        assert_eq!(listed.items, [bodiless(&second), bodiless(&first)]);
        let listed = store.list_quarantined(Some("github"), page(10)).await.expect("read");
        assert_eq!(listed.items, [bodiless(&first)]);
        let newest = store.list_quarantined(None, page(1)).await.expect("read");
        let request = PageRequest { limit: 1, cursor: newest.next_cursor.as_deref() };
        assert_eq!(store.list_quarantined(None, request).await.expect("read").items, [bodiless(&first)]);

        let bodies = store.list_quarantined_bodies(None, None, 10).await.expect("read");
        assert_eq!(bodies, [first.clone(), second.clone()]);
        let bodies = store.list_quarantined_bodies(None, Some(&first.id), 10).await.expect("read");
        assert_eq!(bodies, std::slice::from_ref(&second));
        let bodies = store.list_quarantined_bodies(Some("github"), None, 10).await.expect("read");
        assert_eq!(bodies, std::slice::from_ref(&first));

        let doomed = [first.id, QuarantineId::from_raw("qtn_none")];
        let entry = store.entry("quarantine.discarded");
        assert_eq!(store.delete_quarantined(&doomed, Some(&entry)).await.expect("deleted"), 1);
        assert_eq!(store.delete_quarantined(&doomed, Some(&store.entry("again"))).await.expect("answered"), 0);
        assert_eq!(store.delete_quarantined(&[], None).await.expect("answered"), 0);
        assert_eq!(store.list_log(None, None, page(10)).await.expect("read").items, [entry], "only what happened");
        assert_eq!(store.list_quarantined_bodies(None, None, 10).await.expect("read"), [second]);
    }

    async fn only_what_is_the_same_in_body_cause_and_the_headers_that_matter_is_counted_and_keeps_its_headers(store: TestStore) {
        let first = webhook(&store, "same");
        let again = Quarantined { headers: r#"[["x-request-id","2"]]"#.into(), ..webhook(&store, "same") };
        let other_cause = Quarantined { cause: "stale_timestamp".into(), ..webhook(&store, "same") };
        let other_headers = Quarantined { headers_sha256: "digest of nothing".into(), ..webhook(&store, "same") };
        assert_eq!(keep(&store, &first, WIDE).await.expect("kept"), (first.id.clone(), 1));
        assert_eq!(keep(&store, &again, WIDE).await.expect("counted"), (first.id.clone(), 2));
        assert_eq!(keep(&store, &again, WIDE).await.expect("counted"), (first.id.clone(), 3));
        for other in [&other_cause, &other_headers] {
            assert_eq!(keep(&store, other, WIDE).await.expect("kept"), (other.id.clone(), 1));
        }
        let kept = store.list_quarantined_bodies(None, None, 10).await.expect("read");
        let merged = Quarantined { attempts: 3, last_at: again.last_at, ..first };
        assert_eq!(kept, [merged, other_cause, other_headers]);
    }

    async fn what_an_earlier_version_kept_is_read_with_the_digest_of_its_body(store: TestStore) {
        let old = webhook(&store, "old");
        keep(&store, &old, WIDE).await.expect("kept");
        store.meddle("UPDATE gw_quarantine SET body_sha256 = 'digest of old'").await;
        let kept = store.list_quarantined_bodies(None, None, 10).await.expect("read");
        assert_eq!(kept, [Quarantined { headers_sha256: String::new(), ..old.clone() }]);
        let again = webhook(&store, "old");
        assert_eq!(keep(&store, &again, WIDE).await.expect("kept").1, 1, "whether it is the same nobody knows");
    }

    async fn what_is_kept_together_is_counted_answered_in_order_and_within_the_bounds(store: TestStore) {
        let bounds = QuarantineBounds { max_count: 3, max_bytes: 1_000 };
        let mut all: Vec<Quarantined> = (0..5).map(|number| webhook(&store, &number.to_string())).collect();
        all.push(webhook(&store, "4"));
        let kept = store.quarantine(&all, bounds).await.expect("kept");
        let times: Vec<u32> = kept.iter().map(|(_, times)| *times).collect();
        assert_eq!(times, [1, 1, 1, 1, 1, 2]);
        assert_eq!(kept[5].0, kept[4].0, "the same body under the same id");
        let listed = store.list_quarantined_bodies(None, None, 10).await.expect("read");
        assert_eq!(listed.iter().map(|webhook| &*webhook.body).collect::<Vec<_>>(), [b"2", b"3", b"4"]);
        assert_eq!(store.quarantine(&[], bounds).await.expect("answered"), []);
    }

    async fn the_oldest_make_room_when_a_bound_is_reached(store: TestStore) {
        let bounds = QuarantineBounds { max_count: 3, max_bytes: 1_000 };
        for number in 0..5 {
            keep(&store, &webhook(&store, &format!("{number}")), bounds).await.expect("kept");
        }
        assert_eq!(bodies(&store).await, ["2", "3", "4"]);
        let long = "x".repeat(999);
        keep(&store, &webhook(&store, &long), bounds).await.expect("kept");
        assert_eq!(bodies(&store).await, ["4", &long]);
        let too_long = "x".repeat(1_001);
        assert_eq!(keep(&store, &webhook(&store, &too_long), bounds).await.expect("answered").1, 0);
        assert_eq!(bodies(&store).await, ["4", &long], "what cannot fit pushes nobody out");
    }

    async fn what_anybody_can_send_makes_room_before_what_was_genuinely_signed(store: TestStore) {
        let bounds = QuarantineBounds { max_count: 4, max_bytes: 1_000 };
        let because = |cause: &str, body: &str| Quarantined { cause: cause.into(), ..webhook(&store, body) };
        let first = because("handling_panicked", "genuine 1");
        keep(&store, &first, bounds).await.expect("kept");
        keep(&store, &because("invalid_payload", "genuine 2"), bounds).await.expect("kept");
        let unverified = [
            VerifyError::SignatureMissing,
            VerifyError::SignatureMalformed,
            VerifyError::SignatureMismatch,
            VerifyError::TimestampStale,
            VerifyError::NoSecret,
        ];
        for (number, error) in unverified.into_iter().enumerate() {
            keep(&store, &because(error.code(), &number.to_string()), bounds).await.expect("kept");
        }
        assert_eq!(bodies(&store).await, ["genuine 1", "genuine 2", "3", "4"], "the oldest of them first");
        let large = "x".repeat(990);
        keep(&store, &because("invalid_signature", &large), bounds).await.expect("answered");
        assert_eq!(bodies(&store).await, ["genuine 1", "genuine 2"], "not even for the newest");

        for number in 3..=5 {
            let genuine = because("handling_panicked", &format!("genuine {number}"));
            keep(&store, &genuine, bounds).await.expect("kept");
        }
        assert_eq!(bodies(&store).await, ["genuine 2", "genuine 3", "genuine 4", "genuine 5"]);
        // It comes again, in the row of its first time: its provider may be told that it is kept.
        let again = [because("invalid_payload", "genuine 2"), because("handling_panicked", "genuine 6")];
        store.quarantine(&again[..1], QuarantineBounds { max_count: 3, ..bounds }).await.expect("kept");
        assert_eq!(bodies(&store).await, ["genuine 2", "genuine 4", "genuine 5"]);
        keep(&store, &again[1], bounds).await.expect("kept");
        assert_eq!(bodies(&store).await, ["genuine 2", "genuine 4", "genuine 5", "genuine 6"]);
    }

    async fn what_is_genuine_and_kept_together_pushes_none_of_it_out_or_is_answered_as_not_kept(store: TestStore) {
        let bounds = QuarantineBounds { max_count: 4, max_bytes: 1_000 };
        let because = |cause: &str, body: &str| Quarantined { cause: cause.into(), ..webhook(&store, body) };
        let genuine = |body: &str| because("handling_panicked", body);
        let old: Vec<_> = ["1", "2", "3"].map(genuine).into();
        store.quarantine(&old, bounds).await.expect("kept");
        // Each comes again in its old row, and with it others that are newer.
        let mut all = old;
        all.extend(["forged 1", "forged 2"].map(|body| because("invalid_signature", body)));
        let kept = store.quarantine(&all, bounds).await.expect("kept");
        assert_eq!(kept.iter().map(|(_, times)| *times).collect::<Vec<_>>(), [2, 2, 2, 1, 1]);
        assert_eq!(bodies(&store).await, ["1", "2", "3", "forged 2"]);
        let narrow = QuarantineBounds { max_count: 2, ..bounds };
        let kept = store.quarantine(&all[..3], narrow).await.expect("kept");
        assert_eq!(kept.iter().map(|(_, times)| *times).collect::<Vec<_>>(), [0, 3, 3], "there is no room for the first");
        assert_eq!(bodies(&store).await, ["2", "3"]);
    }
}
