//! The lifecycle and audit log.

use std::time::Duration;

use signalbox::{
    model::{
        ids::{InstallationId, OrgId},
        log_entry::{Actor, LogEntry},
    },
    store::PageRequest,
};

use crate::fixtures::{org, page};

store_suite! {
    async fn the_log_is_listed_newest_first_for_everybody_an_org_or_an_installation(store: TestStore) {
        let installation = InstallationId::from_raw("in_1");
        let first = LogEntry {
            installation: Some(installation.clone()),
            subject: Some("res_1".into()),
            from_state: Some("active".into()),
            to_state: Some("removed".into()),
            reason: Some("because\u{fffd}".into()),
            actor: Actor { who: "key:key_1".into(), user: Some("user_1".into()), from: Some("192.0.2.1".into()) },
            ..store.entry("resource.removed")
        };
        store.clock.advance(Duration::from_millis(1));
        let second = LogEntry { org: None, ..store.entry("key.created") };
        store.append_log(&[first.clone(), second.clone()]).await.expect("appended");
        store.append_log(&[]).await.expect("nothing to append");
        let list = async |org: Option<&OrgId>, installation: Option<&InstallationId>| {
            store.list_log(org, installation, page(10)).await.expect("read").items
        };
        assert_eq!(list(None, None).await, [second.clone(), first.clone()]);
        assert_eq!(list(Some(&org()), None).await, std::slice::from_ref(&first));
        assert_eq!(list(None, Some(&installation)).await, std::slice::from_ref(&first));
        assert_eq!(list(Some(&OrgId::from_raw("org_2")), Some(&installation)).await, []);
        let newest = store.list_log(None, None, page(1)).await.expect("read");
        let request = PageRequest { limit: 1, cursor: newest.next_cursor.as_deref() };
        let oldest = store.list_log(None, None, request).await.expect("read");
        assert_eq!((newest.items, oldest.items, oldest.next_cursor), (vec![second], vec![first], None));
    }
}
