//! What callers do with a connection: tokens, pickers, links, config files, the proxy, backfill runs.

use serde_json::{Value, json};
use signalbox::sim::{
    self, Facts,
    world::{Fault, FaultRule},
};

use crate::support::{Options, Stage, code, on_both};

const REPOSITORIES: &str = "GET /installation/repositories";

async fn resource_ids(stage: &Stage, connection: &str) -> Vec<String> {
    let shown = stage.ask("org", "GET", &format!("/connections/{connection}"), None).await;
    let resources = shown["resources"].as_array().expect("resources");
    resources.iter().map(|row| row["providerResourceId"].as_str().expect("an id").to_owned()).collect()
}

/// The ids of a new account's repositories, of which there are so many.
fn invent_repositories(stage: &Stage, account: u32, count: u32) -> Vec<u64> {
    stage.world.github.tune(|knobs| knobs.repositories = count);
    stage.world.github.with(|site| site.repositories(account).iter().map(|repository| repository.id).collect())
}

on_both! {
    async fn a_token_is_read_by_a_service_and_every_read_has_its_row(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let github = stage.connect("org", "github", 1).await;
        let path = format!("/connections/{github}/token");
        let answer = stage.app.operator("org").call("GET", &path, None).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.json());
        assert_eq!(answer.headers.get("cache-control"), Some("no-store"));
        let token = answer.json();
        let access = token["accessToken"].as_str().expect("a token");
        assert!(stage.world.github.issued().iter().any(|issued| issued == access));
        assert_eq!(token["provider"], "github");
        assert!(token["expiresIn"].as_u64().is_some_and(|seconds| (1..=3600).contains(&seconds)), "{token}");

        let org_key = stage.app.make_key(&["--org", "org"]);
        let refused = stage.with_key(&org_key, "GET", &path, None).await;
        assert_eq!(code(&refused), (403, "service_key_required".into()));
        assert_eq!(stage.refused("another", "GET", &path, None).await, (404, "not_found".into()));
        let adopted = json!({"provider": "linear", "externalId": "org-1", "orgId": "org", "connectedBy": "me"});
        let linear = stage.ask("org", "POST", "/admin/connections", Some(adopted)).await;
        let linear = format!("/connections/{}/token", linear["id"].as_str().expect("an id"));
        assert_eq!(stage.refused("org", "GET", &linear, None).await, (404, "no_token_found".into()));

        let log = stage.ask("org", "GET", &format!("/connections/{github}/log?limit=100"), None).await;
        let reads: Vec<(&Value, &Value)> = log["items"]
            .as_array()
            .expect("items")
            .iter()
            .filter(|entry| entry["action"] == "token.read")
            .map(|entry| (&entry["to"], &entry["reason"]))
            .collect();
        let refused = json!("service_key_required");
        assert_eq!(reads, [(&json!("refused"), &refused), (&json!("granted"), &Value::Null)], "newest first");
        let audit = stage.app.operator("x").ask_for_all("GET", "/admin/audit?limit=100").await.expect("an audit").to_string();
        assert!(audit.contains("no_token_found") && !audit.contains(access));
        stage.finish().await;
    }

    async fn a_provider_that_gives_no_token_now_is_a_502_and_the_connection_stays_as_it_is(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let github = stage.connect("org", "github", 1).await;
        stage.world.github.fail(FaultRule::always("POST /app/installations/*/access_tokens", Fault::status(503)));
        let path = format!("/connections/{github}/token");
        let refused = stage.refused("org", "GET", &path, None).await;
        // A token minted while connecting still lives and is handed out; without one the provider has to be asked.
        assert!([(502, "token_generation_failed".to_owned()), (200, String::new())].contains(&refused), "{refused:?}");
        let shown = stage.ask("org", "GET", &format!("/connections/{github}"), None).await;
        assert_eq!(shown["status"], "active");
        stage.finish().await;
    }

    async fn the_picker_reaches_every_page_and_says_what_is_linked(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let ids = invent_repositories(&stage, 1, 230);
        let github = stage.connect("org", "github", 1).await;
        let link = json!({"providerResourceId": ids[120]});
        stage.ask("org", "POST", &format!("/connections/{github}/resources"), Some(link)).await;
        let path = format!("/connections/{github}/available-resources");
        let (items, pages) = stage.all_pages("org", &path).await;
        assert!(pages > 1);
        assert_eq!(items.len(), 230);
        let linked: Vec<_> = items.iter().filter(|item| item["linked"] == json!(true)).collect();
        assert_eq!(linked.len(), 1);
        assert_eq!(linked[0]["providerResourceId"], json!(ids[120].to_string()));
        assert_eq!(linked[0]["defaultBranch"], "main");
        assert!(linked[0]["fullName"].as_str().is_some_and(|name| name.contains('/')));
        stage.finish().await;
    }

    async fn every_provider_lists_what_can_be_picked(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        for provider in ["github", "vercel", "linear", "sentry"] {
            let connection = stage.connect("org", provider, 1).await;
            let (items, _) = stage.all_pages("org", &format!("/connections/{connection}/available-resources")).await;
            assert!(!items.is_empty(), "{provider}");
            let listed = items[0]["providerResourceId"].as_str().expect("an id").to_owned();
            let path = format!("/connections/{connection}/validate");
            let first = stage.ask("org", "POST", &path, None).await;
            assert_eq!(first["total"], json!(items.len()), "{provider}");
            let again = stage.ask("org", "POST", &path, None).await;
            assert_eq!(again, json!({"added": 0, "removed": 0, "total": items.len()}), "{provider}");

            let key = stage.app.make_key(&["--org", "org"]);
            let body = json!({"connectionId": connection, "resources": [{"providerResourceId": listed}]});
            let linked = stage.with_key(&key, "POST", "/workspaces/ws/integrations", Some(body)).await;
            assert_eq!(linked.status, 200, "{provider}: {}", linked.json());
            let named = linked.json()["integrations"][0]["displayName"].clone();
            assert_ne!(named, json!(listed), "{provider}: the provider told the name");
        }
        stage.finish().await;
    }

    async fn a_provider_that_cannot_be_asked_shows_in_the_health_of_its_connection_with_the_answer(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let github = stage.connect("org", "github", 1).await;
        let (shown, path) = (format!("/connections/{github}"), format!("/connections/{github}/validate"));
        for _round in 0..3 {
            stage.world.github.fail(FaultRule::always(REPOSITORIES, Fault::status(503)));
            assert_eq!(stage.refused("org", "POST", &path, None).await, (502, "provider_unavailable".into()));
            let told = stage.ask("org", "GET", &shown, None).await;
            assert_eq!((&told["health"], &told["status"]), (&json!("degraded"), &json!("active")));
            stage.world.github.heal();
            stage.ask("org", "POST", &path, None).await;
            assert_eq!(stage.ask("org", "GET", &shown, None).await["health"], "ok");
        }
        stage.finish().await;
    }

    async fn a_cursor_that_no_page_gave_is_the_callers_mistake_and_says_nothing_of_the_provider(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        for provider in ["github", "vercel", "linear", "sentry"] {
            let connection = stage.connect("org", provider, 1).await;
            for cursor in ["garbage", "1.garbage", "0.x"] {
                let path = format!("/connections/{connection}/available-resources?cursor={cursor}");
                let refused = stage.refused("org", "GET", &path, None).await;
                assert_eq!(refused, (400, "invalid_parameter".into()), "{provider}: {cursor}");
            }
            let shown = stage.ask("org", "GET", &format!("/connections/{connection}"), None).await;
            assert_eq!(shown["health"], "ok", "{provider}: it answered");
        }
        stage.finish().await;
    }

    async fn an_org_key_links_what_the_provider_lists_and_a_service_links_anything(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let ids = invent_repositories(&stage, 1, 60);
        let github = stage.connect("org", "github", 1).await;
        let key = stage.app.make_key(&["--org", "org"]);
        let path = format!("/connections/{github}/resources");
        let link = |id: Value| Some(json!({"providerResourceId": id}));

        let linked = stage.with_key(&key, "POST", &path, link(json!(ids[59]))).await;
        assert_eq!(linked.status, 200, "{}", linked.json());
        let name = linked.json()["resource"]["resourceName"].clone();
        assert!(name.as_str().is_some_and(|name| name.starts_with("harborworks-1/")), "{name}");
        let foreign = stage.with_key(&key, "POST", &path, link(json!(7))).await;
        assert_eq!(code(&foreign), (404, "resource_not_accessible".into()));
        assert_eq!(foreign.json()["providerResourceId"], "7");

        stage.world.github.fail(FaultRule::always(REPOSITORIES, Fault::status(503)));
        let unreachable = stage.with_key(&key, "POST", &path, link(json!(ids[1]))).await;
        assert_eq!(code(&unreachable), (502, "provider_unavailable".into()));
        assert_eq!(resource_ids(&stage, &github).await, [ids[59].to_string()]);
        // The service is trusted, and is not kept waiting by a provider that is down.
        stage.ask("org", "POST", &path, link(json!(7))).await;
        stage.world.github.heal();

        let before = stage.world.github.calls(REPOSITORIES).len();
        let mut resources: Vec<_> = ids[..50].iter().map(|id| json!({"providerResourceId": id})).collect();
        resources[3]["name"] = json!("mine");
        let body = json!({"connectionId": github, "resources": resources});
        let all = stage.with_key(&key, "POST", "/workspaces/ws/integrations", Some(body.clone())).await;
        assert_eq!(all.status, 200, "{}", all.json());
        assert_eq!(all.json()["created"], 50);
        let asked = stage.world.github.calls(REPOSITORIES).len() - before;
        assert!(asked <= 3, "asked {asked} times for fifty resources");
        let config = &all.json()["integrations"][2]["sourceConfig"];
        assert_eq!((&config["isPrivate"], &config["repoName"]), (&json!(false), &json!("harbor-002")), "{config}");
        let named = &all.json()["integrations"][3];
        assert_eq!(named["displayName"], "mine");
        let full = named["sourceConfig"]["repoFullName"].as_str().unwrap_or_default();
        assert!(full.ends_with("/harbor-003"), "a name of one's own is no name at GitHub: {named}");
        let before = stage.world.github.calls(REPOSITORIES).len();
        assert_eq!(stage.with_key(&key, "POST", "/workspaces/ws/integrations", Some(body)).await.json()["skipped"], 50);
        assert_eq!(stage.world.github.calls(REPOSITORIES).len(), before, "what is linked needs nobody's word");
        stage.finish().await;
    }

    async fn credentials_of_another_github_app_end_no_connection(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let github = stage.connect("org", "github", 1).await;
        let (shown, validate) = (format!("/connections/{github}"), format!("/connections/{github}/validate"));
        stage.ask("org", "POST", &validate, None).await;
        // Another App knows none of the installations.
        let unknown = || FaultRule::always("* /app/installations/**", Fault::status(404));
        let members = json!({"id": 7}).as_object().cloned().expect("members");
        stage.world.github.fail(unknown());
        stage.world.github.fail(FaultRule::always("GET /app", Fault::With { members }));
        let refused = stage.refused("org", "POST", &validate, None).await;
        assert_eq!(refused, (502, "provider_unavailable".into()));
        assert_eq!(stage.ask("org", "GET", &shown, None).await["status"], "active");
        stage.world.github.heal();
        stage.ask("org", "POST", &validate, None).await;

        // The App itself is believed.
        stage.world.github.fail(unknown());
        let refused = stage.refused("org", "POST", &validate, None).await;
        assert_eq!(refused, (400, "installation_not_active".into()));
        assert_eq!(stage.ask("org", "GET", &shown, None).await["status"], "revoked");
        stage.finish().await;
    }

    async fn a_token_refused_twice_makes_the_connection_ask_for_another_grant(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let linear = stage.connect("org", "linear", 1).await;
        let path = format!("/connections/{linear}/available-resources");
        stage.world.linear.fail(FaultRule::once("POST /graphql", Fault::status(401)));
        stage.ask("org", "GET", &path, None).await;
        stage.world.linear.fail(FaultRule::always("POST /graphql", Fault::status(401)));
        assert_eq!(stage.refused("org", "GET", &path, None).await, (401, "connection_expired".into()));
        let shown = stage.ask("org", "GET", &format!("/connections/{linear}"), None).await;
        assert_eq!(shown["status"], "needs_reauth", "{shown}");
        let token = stage.refused("org", "GET", &format!("/connections/{linear}/token"), None).await;
        assert_eq!(token, (401, "token_expired".into()));
        stage.finish().await;
    }

    async fn what_left_the_grants_reach_is_removed_by_the_next_look(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let ids = invent_repositories(&stage, 1, 4);
        let github = stage.connect("org", "github", 1).await;
        let link = |id: u64| Some(json!({"providerResourceId": id}));
        let resources = format!("/connections/{github}/resources");
        stage.ask("org", "POST", &resources, link(ids[1])).await;
        // What the provider never listed is the service's own affair.
        stage.ask("org", "POST", &resources, link(77)).await;
        let validate = format!("/connections/{github}/validate");
        assert_eq!(stage.ask("org", "POST", &validate, None).await["total"], 4);
        stage.world.github.with(|site| {
            site.repositories(1)[1].granted = false;
            site.repositories(1)[2].name = "renamed".into();
        });
        stage.ask("org", "POST", &resources, link(ids[2])).await;
        let look = stage.ask("org", "POST", &validate, None).await;
        assert_eq!(look, json!({"added": 0, "removed": 1, "total": 3}));
        assert_eq!(resource_ids(&stage, &github).await, ["77".to_owned(), ids[2].to_string()]);
        stage.finish().await;
    }

    async fn a_resource_that_one_listing_left_out_stays_linked(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let ids = invent_repositories(&stage, 1, 4);
        let github = stage.connect("org", "github", 1).await;
        let body = Some(json!({"providerResourceId": ids[1]}));
        stage.ask("org", "POST", &format!("/connections/{github}/resources"), body).await;
        let validate = format!("/connections/{github}/validate");
        stage.ask("org", "POST", &validate, None).await;
        let answer = |members: Value| Fault::With { members: members.as_object().expect("an object").clone() };
        let linked = || resource_ids(&stage, &github);

        // Whole by its own count, and contradicted by the next one.
        let nothing = answer(json!({"total_count": 0, "repositories": []}));
        stage.world.github.fail(FaultRule::once(REPOSITORIES, nothing));
        assert_eq!(stage.ask("org", "POST", &validate, None).await, json!({"added": 0, "removed": 0, "total": 4}));
        assert_eq!(linked().await, [ids[1].to_string()]);
        // Fewer than GitHub says there are.
        stage.world.github.fail(FaultRule::always(REPOSITORIES, answer(json!({"repositories": []}))));
        assert_eq!(stage.ask("org", "POST", &validate, None).await, json!({"added": 0, "removed": 0, "total": 0}));
        stage.world.github.heal();
        // An answer that is no list.
        let members = vec!["repositories".to_owned(), "total_count".to_owned()];
        stage.world.github.fail(FaultRule::always(REPOSITORIES, Fault::Without { members }));
        let refused = stage.refused("org", "POST", &validate, None).await;
        assert_eq!(refused, (502, "provider_unavailable".into()));
        stage.world.github.heal();
        assert_eq!(linked().await, [ids[1].to_string()]);

        stage.world.github.with(|site| site.repositories(1)[1].granted = false);
        assert_eq!(stage.ask("org", "POST", &validate, None).await["removed"], 1);
        assert_eq!(linked().await, [""; 0]);
        stage.finish().await;
    }

    async fn the_timer_looks_by_itself(backend) {
        let stage = Stage::set(backend, Options::default().with("SIGNALBOX_RESOURCES__RELIST_S", "0.2")).await;
        let ids = invent_repositories(&stage, 1, 2);
        let github = stage.connect("org", "github", 1).await;
        let link = json!({"providerResourceId": ids[1], "resourceName": "old/name"});
        stage.ask("org", "POST", &format!("/connections/{github}/resources"), Some(link)).await;
        let shown = stage.until("org", &format!("/connections/{github}"), |shown| {
            shown["resources"][0]["resourceName"] == "harborworks-1/harbor-001"
        }).await;
        assert_eq!(shown["status"], "active");
        stage.finish().await;
    }

    async fn an_account_that_is_renamed_is_looked_at_for_the_names_of_its_repositories(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let ids = invent_repositories(&stage, 1, 2);
        let github = stage.connect("org", "github", 1).await;
        let link = json!({"providerResourceId": ids[1], "resourceName": "old-name/harbor-001"});
        stage.ask("org", "POST", &format!("/connections/{github}/resources"), Some(link)).await;
        let facts = Facts { account: "called-something-else".into(), ..stage.world.github.facts(1, 1) };
        let provider = sim::find("github").expect("simulated");
        let renamed = provider.event("github:installation-target.renamed", &facts, provider.secret.as_bytes());
        let answer = stage.app.outsider().post_webhook("github", &renamed.expect("known")).await.expect("an answer");
        assert_eq!(answer.json()["outcome"], "control", "{}", answer.json());
        stage.until("org", &format!("/connections/{github}"), |shown| {
            shown["resources"][0]["resourceName"] == "harborworks-1/harbor-001"
        }).await;
        stage.finish().await;
    }

    async fn the_config_file_is_the_first_candidate_and_has_to_be_yaml(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let ids = invent_repositories(&stage, 1, 3);
        let github = stage.connect("org", "github", 1).await;
        let path = |index: usize| format!("/connections/{github}/config?resource={}", ids[index]);
        let nothing = stage.ask("org", "GET", &path(1), None).await;
        assert_eq!(nothing, json!({"exists": false, "path": null, "content": null, "sha": null}));
        stage.world.github.with(|site| {
            site.write_file(1, 1, ".lightfast.yaml", "later: true\n");
            site.write_file(1, 1, ".lightfast.yml", "include:\n  - src/**\n");
            site.write_file(1, 2, "lightfast.yml", "a: [1, 2\n");
        });
        let found = stage.ask("org", "GET", &path(1), None).await;
        assert_eq!((&found["exists"], &found["path"]), (&json!(true), &json!(".lightfast.yml")));
        assert_eq!(found["content"], "include:\n  - src/**\n");
        assert!(found["sha"].as_str().is_some_and(|sha| !sha.is_empty()));
        assert_eq!(stage.refused("org", "GET", &path(2), None).await, (400, "invalid_config".into()));
        stage.world.github.with(|site| site.write_file(1, 2, "lightfast.yml", "x".repeat(50 * 1024 + 1)));
        assert_eq!(stage.refused("org", "GET", &path(2), None).await, (400, "config_too_large".into()));
        let without = format!("/connections/{github}/config");
        assert_eq!(stage.refused("org", "GET", &without, None).await, (400, "invalid_parameter".into()));
        let vercel = stage.connect("org", "vercel", 1).await;
        let there = format!("/connections/{vercel}/config?resource=prj_1");
        assert_eq!(stage.refused("org", "GET", &there, None).await, (400, "not_supported".into()));

        // Linking looks by itself, and so does another default branch.
        let body = json!({"connectionId": github, "resources": [{"providerResourceId": ids[1]}, {"providerResourceId": ids[0]}]});
        let linked = stage.ask("org", "POST", "/workspaces/ws/integrations", Some(body)).await;
        let integration = |index: usize| format!("/integrations/{}", linked["integrations"][index]["id"].as_str().expect("an id"));
        let configured = stage.until("org", &integration(0), |shown| !shown["sourceConfig"]["status"].is_null()).await;
        let status = &configured["sourceConfig"]["status"];
        assert_eq!((&status["configStatus"], &status["configPath"]), (&json!("configured"), &json!(".lightfast.yml")));
        let waiting = stage.until("org", &integration(1), |shown| !shown["sourceConfig"]["status"].is_null()).await;
        assert_eq!(waiting["sourceConfig"]["status"]["configStatus"], "awaiting_config");
        assert_eq!(waiting["sourceConfig"]["repoId"], ids[0].to_string(), "everything else is kept");
        stage.finish().await;
    }

    async fn the_proxy_calls_what_is_listed_and_nothing_else(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        invent_repositories(&stage, 1, 2);
        let github = stage.connect("org", "github", 1).await;
        let listed = stage.ask("org", "GET", &format!("/connections/{github}/proxy/endpoints"), None).await;
        assert!(listed["items"].as_array().expect("items").iter().any(|item| item["id"] == "repos.get"));
        let path = format!("/connections/{github}/proxy/execute");
        let repository = |owner: &str, repo: &str| {
            Some(json!({"endpointId": "repos.get", "pathParams": {"owner": owner, "repo": repo}}))
        };
        stage.world.github.fail(FaultRule::once("GET /repos/**", Fault::status(401)));
        let answer = stage.ask("org", "POST", &path, repository("harborworks-1", "harbor-001")).await;
        assert_eq!((&answer["status"], &answer["data"]["name"]), (&json!(200), &json!("harbor-001")), "{answer}");
        assert!(answer["headers"].as_object().is_some_and(|headers| !headers.contains_key("set-cookie")));
        let foreign = stage.ask("org", "POST", &path, repository("a/../../app", "x?y#z")).await;
        assert_eq!(foreign["status"], 404, "{foreign}");
        for (body, expected) in [
            (json!({}), "missing_required_fields"),
            (json!({"endpointId": "app.delete"}), "unknown_endpoint"),
            (json!({"endpointId": "repos.get", "pathParams": {"owner": "o"}}), "missing_path_parameters"),
            (json!({"endpointId": "repos.list", "pathParams": {"owner": "o"}}), "unknown_path_parameters"),
            (json!({"endpointId": "repos.get", "pathParams": {"owner": "..", "repo": "r"}}), "invalid_fields"),
            (json!({"endpointId": "repos.list", "queryParams": {"a": {"b": 1}}}), "invalid_fields"),
        ] {
            assert_eq!(stage.refused("org", "POST", &path, Some(body)).await, (400, expected.into()));
        }
        let key = stage.app.make_key(&["--org", "org"]);
        let refused = stage.with_key(&key, "POST", &path, Some(json!({"endpointId": "repos.list"}))).await;
        assert_eq!(code(&refused), (403, "service_key_required".into()));
        stage.finish().await;
    }

    async fn a_backfill_service_reports_its_runs(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let github = stage.connect("org", "github", 1).await;
        let path = format!("/connections/{github}/backfill-runs");
        let asked_for = json!({"depth": 30, "entityTypes": ["issue", "pull_request"]});
        let run = stage.ask("org", "POST", &path, Some(asked_for)).await;
        assert_eq!((&run["status"], &run["depth"]), (&json!("pending"), &json!(30)));
        let id = run["id"].clone();
        let report = |members: Value| {
            let mut body = members;
            body["id"] = id.clone();
            Some(body)
        };
        let running = stage.ask("org", "POST", &path, report(json!({"status": "running", "counts": {"issue": 3}}))).await;
        assert!(running["startedAt"].is_string());
        let done = stage.ask("org", "POST", &path, report(json!({"status": "completed", "counts": {"issue": 9}}))).await;
        assert_eq!((&done["counts"], &done["entityTypes"]), (&json!({"issue": 9}), &json!(["issue", "pull_request"])));
        let back = stage.refused("org", "POST", &path, report(json!({"status": "running"}))).await;
        assert_eq!(back, (409, "invalid_backfill_transition".into()));
        let word = stage.refused("org", "POST", &path, Some(json!({"status": "busy"}))).await;
        assert_eq!(word, (400, "invalid_fields".into()));
        let foreign = stage.refused("another", "GET", &path, None).await;
        assert_eq!(foreign, (404, "not_found".into()));
        let (items, _) = stage.all_pages("org", &path).await;
        assert_eq!(items.iter().filter(|run| run["id"] == id).count(), 1);
        stage.finish().await;
    }

    async fn who_began_a_backfill_run_and_moved_it_is_in_the_log_and_mere_counting_is_not(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let github = stage.connect("org", "github", 1).await;
        let path = format!("/connections/{github}/backfill-runs");
        let key = stage.app.make_key(&["--org", "org"]);
        let report = async |body: Value| {
            let headers = [("x-api-key", key.as_str()), ("x-user-id", "ada"), ("content-type", "application/json")];
            stage.app.send("POST", &path, &headers, body.to_string()).await
        };
        let id = report(json!({})).await.json()["id"].clone();
        for moved in [json!({"status": "running"}), json!({"counts": {"issue": 3}}), json!({"status": "completed"})] {
            let mut body = moved;
            body["id"] = id.clone();
            assert_eq!(report(body).await.status, 200);
        }
        assert_eq!(report(json!({"id": id, "status": "running"})).await.status, 409);

        for log in [format!("/connections/{github}/log"), "/admin/audit".to_owned()] {
            let log = stage.ask("org", "GET", &log, None).await;
            let told: Vec<&Value> = log["items"].as_array().expect("items").iter().filter(|entry| entry["subject"] == id).collect();
            let moves: Vec<_> = told.iter().map(|entry| (&entry["action"], &entry["from"], &entry["to"])).collect();
            let reported = json!("backfill_run.reported");
            let [pending, running, completed] = ["pending", "running", "completed"].map(|status| json!(status));
            let newest_first = [(&reported, &running, &completed), (&reported, &pending, &running), (&reported, &Value::Null, &pending)];
            assert_eq!(moves, newest_first, "{log:#}");
            for entry in told {
                let actor = &entry["actor"];
                assert!(actor["who"].as_str().is_some_and(|who| who.starts_with("key:key_")), "{entry}");
                assert_eq!((&actor["user"], &actor["from"]), (&json!("ada"), &json!("127.0.0.1")), "{entry}");
            }
        }
        stage.finish().await;
    }
}
