//! The vault's records: every sealed value is found, and replaced only while it is the one that was read.

use std::{collections::BTreeSet, time::Duration};

use signalbox::{
    model::{destination::DestinationScope, oauth_flow::OAuthFlow, token::SealedToken},
    store::{SealedCursor, SealedValue},
};

use crate::TestStore;

impl TestStore {
    /// Walks over every sealed value, so many rows at a time.
    async fn walk(&self, limit: u32) -> Vec<SealedValue> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let values = self.list_sealed(after.as_ref(), limit).await.expect("read");
            let Some(last) = values.last() else { return found };
            let rows: BTreeSet<_> = values.iter().map(|value| (value.table, value.row.clone())).collect();
            assert!(rows.len() <= limit as usize, "{rows:?}");
            after = Some(SealedCursor { table: last.table, row: last.row.clone() });
            found.extend(values);
        }
    }
}

store_suite! {
    async fn a_walk_meets_every_sealed_value_of_every_table_whatever_its_step(store: TestStore) {
        assert!(store.walk(10).await.is_empty());
        let mut expected = Vec::new();
        let mut expect = |table, row: &str, column, sealed: &str| {
            expected.push(SealedValue { table, row: row.to_owned(), column, sealed: sealed.to_owned() });
        };
        for number in 0..3 {
            let mut destination = store.destination_for(DestinationScope::Workspace, &format!("ws_{number}"));
            destination.headers_sealed = (number > 0).then(|| "h".into());
            destination.previous_secret_sealed = (number > 1).then(|| "p".into());
            store.save_destination(&destination, None, &store.entry("x")).await.expect("saved");
            store.clock.advance(Duration::from_millis(1));
            let row = destination.id.as_str();
            expect("gw_destinations", row, "secret", "sealed secret");
            if number > 1 {
                expect("gw_destinations", row, "previous_secret", "p");
            }
            if number > 0 {
                expect("gw_destinations", row, "headers", "h");
            }
        }
        for state in [0xff_u8, 0x00, 0x7f] {
            let flow = store.flow(state);
            let verifier = flow.pkce_verifier_sealed.clone().filter(|_| state != 0x7f);
            store.insert_flow(&OAuthFlow { pkce_verifier_sealed: verifier, ..flow }, None).await.expect("inserted");
        }
        for state in ["00", "ff"] {
            expect("gw_oauth_states", &state.repeat(32), "pkce_verifier", "sealed verifier");
        }
        for number in 0..3 {
            let installation = store.installation(&number.to_string());
            let token = store.token(&installation.id);
            let token = SealedToken { refresh: token.refresh.filter(|_| number != 1), ..token };
            store.insert_connection(&installation, Some(&token), &store.entry("x")).await.expect("inserted");
            store.clock.advance(Duration::from_millis(1));
            expect("gw_tokens", installation.id.as_str(), "access_token", "sealed access");
            if number != 1 {
                expect("gw_tokens", installation.id.as_str(), "refresh_token", "sealed refresh");
            }
        }
        for limit in [1, 2, 3, 4, 100] {
            assert_eq!(store.walk(limit).await, expected, "{limit} rows at a time");
        }
    }

    async fn a_sealed_value_is_replaced_only_while_it_is_the_one_that_was_read(store: TestStore) {
        let mut destination = store.destination_for(DestinationScope::Org, "org_1");
        destination.previous_secret_sealed = Some("previous".into());
        store.save_destination(&destination, None, &store.entry("x")).await.expect("saved");
        store.insert_flow(&store.flow(7), None).await.expect("inserted");
        let token = store.insert_connected("4711").await;
        let before = store.walk(100).await;
        assert_eq!(before.len(), 6, "{before:?}");
        for value in &before {
            let by = format!("{} again", value.sealed);
            assert!(store.replace_sealed(value, &by).await.expect("answered"), "{value:?}");
            assert!(!store.replace_sealed(value, "late").await.expect("answered"), "{value:?}");
        }
        let expected: Vec<SealedValue> = before
            .iter()
            .map(|value| SealedValue { sealed: format!("{} again", value.sealed), ..value.clone() })
            .collect();
        assert_eq!(store.walk(100).await, expected);
        let stored = store.find_token(&token.installation).await.expect("read").expect("there");
        let resealed =
            SealedToken { access: "sealed access again".into(), refresh: Some("sealed refresh again".into()), ..token };
        assert_eq!(stored, resealed, "nothing else moved");

        for nowhere in [
            SealedValue { row: "in_none".into(), ..before[4].clone() },
            SealedValue { column: "secret", ..before[4].clone() },
            SealedValue { table: "gw_events", ..before[4].clone() },
        ] {
            assert!(!store.replace_sealed(&nowhere, "x").await.expect("answered"), "{nowhere:?}");
        }
    }
}
