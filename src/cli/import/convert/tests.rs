//! Rows of every schema, invented.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;

const A: ProviderSlug = ProviderSlug("a");
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// `lin_oauth_0123`, sealed with that key.
const SEALED: &str = "AAECAwQFBgcICQoLK2u4RKqEt2/lHqe6g9rpAoRNMgm2/O8mkEwgLC02";

fn known() -> Vec<KnownProvider> {
    vec![
        KnownProvider { slug: A, resource_kind: "project", keeps_tokens: true },
        KnownProvider { slug: ProviderSlug("b"), resource_kind: "repository", keeps_tokens: false },
    ]
}

fn rows(rows: &Value) -> Vec<ForeignRow> {
    rows.as_array().expect("a list").iter().map(|row| row.as_object().expect("an object").clone()).collect()
}

fn installation(id: &str, external_id: &str) -> Value {
    json!({"id": id, "provider": "a", "external_id": external_id, "org_id": "org_1", "connected_by": "user_1",
           "status": "active", "created_at": "2026-02-25T10:48:45.123+00:00", "updated_at": "2026-02-26T00:00:00"})
}

fn converted(from: &LightfastRows) -> (Vec<InstallationPlan>, Report) {
    convert(from, &known(), &LightfastKey::from_hex(KEY).expect("a key"))
}

fn reason<'r>(report: &'r Report, id: &str) -> &'r str {
    let found = report.not_carried_over.iter().find(|problem| problem.id == id);
    found.map_or_else(|| panic!("{id} was carried over: {report:?}"), |problem| &problem.reason)
}

#[test]
fn relations_are_kept_and_ids_are_the_same_in_every_run() {
    let from = LightfastRows {
        installations: rows(&json!([installation("V1StGXR8_Z5jdHi6B-myT", "4711")])),
        resources: rows(&json!([{"id": "r", "installation_id": "V1StGXR8_Z5jdHi6B-myT", "provider_resource_id": "9",
                                 "resource_name": "harborworks/tide-clock", "status": "removed"}])),
        integrations: rows(&json!([{"id": "i", "workspace_id": "ws_1", "installation_id": "V1StGXR8_Z5jdHi6B-myT",
                                    "provider_resource_id": "9", "provider": "a", "is_active": true,
                                    "source_config": {"sync": {"events": ["pull_request"], "autoSync": false}}}])),
        ..LightfastRows::default()
    };
    let (plans, report) = converted(&from);
    assert_eq!(report.not_carried_over, []);
    let [plan] = plans.as_slice() else { panic!("one installation") };
    let id = plan.installation.id.as_str();
    assert!(id.starts_with("in_019c94") && id.len() == 35, "{id}");
    assert_eq!(plan.installation.created_at.to_rfc3339(), "2026-02-25T10:48:45.123Z");
    assert_eq!(plan.installation.updated_at.to_rfc3339(), "2026-02-26T00:00:00.000Z");
    assert_eq!(plan.installation.metadata["lightfastId"], "V1StGXR8_Z5jdHi6B-myT");
    let (_, resource) = &plan.resources[0];
    assert_eq!((resource.status, resource.kind.as_str()), (ResourceStatus::Removed, "project"));
    let (_, integration) = &plan.integrations[0];
    assert_eq!((&integration.installation, &integration.resource), (&plan.installation.id, &resource.id));
    assert_eq!(integration.org.as_str(), "org_1");
    assert_eq!(integration.rules().events, ["pull_request"], "category keys stay as they are");
    let (again, _) = converted(&from);
    assert_eq!(again[0].installation, plan.installation);
    assert_eq!((&again[0].resources[0].1, &again[0].integrations[0].1), (resource, integration));
}

#[test]
fn an_id_of_our_form_stays() {
    let ours = format!("in_{}", "0a".repeat(16));
    let from = LightfastRows { installations: rows(&json!([installation(&ours, "1")])), ..LightfastRows::default() };
    assert_eq!(converted(&from).0[0].installation.id.as_str(), ours);
}

#[test]
fn an_installation_that_cannot_be_takes_nothing_with_it_silently() {
    let with = |changes: Value| {
        let mut row = installation("x", "1");
        for (name, value) in changes.as_object().expect("an object") {
            row[name] = value.clone();
        }
        row
    };
    for (changes, expected) in [
        (json!({"provider": "mainframe"}), "the provider mainframe is not known here"),
        (json!({"external_id": null}), "it has no external_id"),
        (json!({"org_id": ""}), "it has no org_id"),
        (json!({"org_id": "no org"}), "its org_id is none that requests could name"),
        (json!({"status": "sleeping"}), "its status sleeping is not known here"),
    ] {
        let from = LightfastRows {
            installations: rows(&json!([with(changes)])),
            tokens: rows(&json!([{"id": "t", "installation_id": "x", "access_token": SEALED}])),
            resources: rows(&json!([{"id": "r", "installation_id": "x", "provider_resource_id": "9"}])),
            integrations: rows(&json!([{"id": "i", "installation_id": "x", "workspace_id": "w"}])),
            ..LightfastRows::default()
        };
        let (plans, report) = converted(&from);
        assert!(plans.is_empty());
        assert_eq!(reason(&report, "x"), expected);
        for id in ["t", "r", "i"] {
            assert!(reason(&report, id).contains("its installation x"), "{}", reason(&report, id));
        }
    }
}

#[test]
fn statuses_are_kept_and_an_error_asks_for_a_new_grant() {
    for (word, expected) in [
        ("active", InstallationStatus::Active),
        ("pending", InstallationStatus::Pending),
        ("error", InstallationStatus::NeedsReauth),
        ("suspended", InstallationStatus::Suspended),
        ("revoked", InstallationStatus::Revoked),
    ] {
        let mut row = installation("x", "1");
        row["status"] = json!(word);
        let from = LightfastRows { installations: rows(&json!([row])), ..LightfastRows::default() };
        assert_eq!(converted(&from).0[0].installation.status, expected, "{word}");
    }
}

#[test]
fn a_token_opens_and_one_that_does_not_is_named_without_its_content() {
    let tokens = json!([
        {"id": "old", "installation_id": "x", "access_token": SEALED, "updated_at": "2026-01-01T00:00:00+00:00"},
        {"id": "new", "installation_id": "x", "access_token": SEALED, "refresh_token": SEALED, "token_type": "bearer",
         "scope": "read", "expires_at": "2026-03-01T00:00:00+00:00", "updated_at": "2026-02-01T00:00:00+00:00"},
        {"id": "plain", "installation_id": "y", "access_token": "lin_oauth_plain_0123"},
        {"id": "damaged", "installation_id": "z", "access_token": STANDARD.encode([7; 60])},
        {"id": "half", "installation_id": "u", "access_token": SEALED, "refresh_token": "??"},
        {"id": "none", "installation_id": "v", "access_token": null},
        {"id": "minted", "installation_id": "w", "access_token": SEALED},
    ]);
    let mut minted = installation("w", "6");
    minted["provider"] = json!("b");
    let from = LightfastRows {
        installations: rows(&json!([
            installation("x", "1"),
            installation("y", "2"),
            installation("z", "3"),
            installation("u", "4"),
            installation("v", "5"),
            minted
        ])),
        tokens: rows(&tokens),
        ..LightfastRows::default()
    };
    let (plans, report) = converted(&from);
    let (origin, token) = plans[0].token.as_ref().expect("a token");
    assert_eq!((origin.as_str(), token.access.as_slice()), ("new", &b"lin_oauth_0123"[..]));
    assert_eq!(token.refresh.as_ref().map(|refresh| refresh.as_slice()), Some(&b"lin_oauth_0123"[..]));
    assert_eq!(token.expires_at.map(EpochMs::to_rfc3339).as_deref(), Some("2026-03-01T00:00:00.000Z"));
    for (id, expected) in [
        ("old", "its installation has a newer one"),
        ("plain", "access_token: it is not base64 of an IV, a ciphertext and a tag"),
        ("damaged", "access_token: it does not open with this key"),
        ("half", "refresh_token: it is not base64 of an IV, a ciphertext and a tag"),
        ("none", "it has no access token"),
        ("minted", "tokens of this provider are minted when they are needed, and not kept"),
    ] {
        assert_eq!(reason(&report, id), expected);
    }
    assert!(plans[1..].iter().all(|plan| plan.token.is_none()));
}

#[test]
fn older_shapes_find_their_installation_and_make_their_resource() {
    let integrations = json!([
        {"id": "gateway", "workspace_id": "w1", "user_source_id": "us_1", "gateway_installation_id": "x",
         "is_active": false, "source_config": {"version": 1, "sourceType": "a", "type": "repository", "repoId": "9",
         "repoFullName": "harborworks/tide-clock", "isPrivate": true, "sync": {"events": ["push"], "autoSync": true}}},
        {"id": "account", "workspace_id": "w2", "user_source_id": "us_1",
         "source_config": {"sourceType": "a", "installationId": "4711", "repoId": "9", "sync": {"events": []}}},
        {"id": "split", "workspace_id": "w3", "installation_id": "x", "source_config": null,
         "resource_meta": {"sourceType": "a", "projectId": "prj_1", "projectName": "shore", "teamId": "team_1",
         "configurationId": "icfg_1"}, "sync_config": {"events": ["deployment.created"]}},
        {"id": "person", "workspace_id": "w4", "user_source_id": "us_2", "source_config": {"sourceType": "a", "repoId": "9"}},
        {"id": "foreign", "workspace_id": "w5", "installation_id": "x", "provider": "b", "provider_resource_id": "9"},
        {"id": "nameless", "workspace_id": "w6", "installation_id": "x", "source_config": {}},
        {"id": "twice", "workspace_id": "w1", "installation_id": "x", "provider_resource_id": "9", "is_active": false},
    ]);
    let from = LightfastRows {
        installations: rows(&json!([installation("x", "4711")])),
        integrations: rows(&integrations),
        user_sources: rows(&json!([{"id": "us_1", "access_token": SEALED}])),
        missing: vec![RESOURCES],
        ..LightfastRows::default()
    };
    let (plans, report) = converted(&from);
    let plan = &plans[0];
    let origins: Vec<&str> = plan.integrations.iter().map(|(origin, _)| origin.as_str()).collect();
    assert_eq!(origins, ["account", "split", "gateway"], "active ones first");
    let ids: Vec<&str> = plan.resources.iter().map(|(_, resource)| resource.provider_resource_id.as_str()).collect();
    assert_eq!(ids, ["9", "prj_1"]);
    let first = &plan.resources[0].1;
    assert_eq!(
        (first.name.as_deref(), first.attrs.get("isPrivate")),
        (Some("harborworks/tide-clock"), Some(&json!(true)))
    );
    assert_eq!(plan.installation.alternate_external_id.as_ref().map(ExternalId::as_str), Some("icfg_1"));
    let gateway = &plan.integrations[2].1;
    assert_eq!((gateway.status, gateway.rules().events), (IntegrationStatus::Disconnected, vec!["push".to_owned()]));
    assert_eq!(plan.integrations[1].1.rules().events, ["deployment.created"]);
    for (id, expected) in [
        ("person", "it belongs to us_2, a person's source, which no org owns"),
        ("foreign", "it is of b, its installation of a"),
        ("nameless", "it names no resource"),
        ("twice", "its workspace has another integration of this resource"),
        ("us_1", "it belongs to a person, not to an org: that person's org connects again"),
    ] {
        assert_eq!(reason(&report, id), expected);
    }
    assert_eq!(report.missing, [RESOURCES]);
}
