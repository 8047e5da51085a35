//! The end of a connection, as callers see it: what `DELETE` answers, and the receipt.

use serde_json::json;

use crate::support::{Options, Stage, on_both};

on_both! {
    async fn a_connection_ends_by_either_route_and_leaves_a_receipt(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        for (provider, named) in [("github", true), ("linear", false)] {
            let connection = stage.connect("org", provider, 1).await;
            let plain = format!("/connections/{connection}");
            let path = if named { format!("/connections/{provider}/{connection}") } else { plain.clone() };
            let receipt = format!("{plain}/teardown");
            assert_eq!(stage.refused("org", "GET", &receipt, None).await, (404, "not_found".into()));
            assert_eq!(stage.refused("another", "DELETE", &path, None).await, (404, "not_found".into()));

            let ended = stage.ask("org", "DELETE", &path, None).await;
            assert_eq!(ended, json!({"status": "teardown_initiated", "installationId": connection}));
            let shown = stage.ask("org", "GET", &plain, None).await;
            assert_eq!((&shown["status"], &shown["hasToken"]), (&json!("revoked"), &json!(false)));
            let token = stage.refused("org", "GET", &format!("{plain}/token"), None).await;
            assert_eq!(token, (400, "installation_not_active".into()));

            let done = stage.until("org", &receipt, |receipt| receipt["status"] == "completed").await;
            assert_eq!(done["installationId"], json!(connection));
            let steps: Vec<_> = done["steps"].as_array().expect("steps").iter().map(|step| step["step"].clone()).collect();
            let expected =
                ["close_gate", "cancel_backfill", "revoke_token", "deregister_webhook", "remove_resources", "delete_token"];
            assert_eq!(json!(steps), json!(expected));
            assert!(done["startedAt"].is_string() && done["finishedAt"].is_string(), "{done}");
            let again = stage.ask("org", "DELETE", &path, None).await;
            assert_eq!(again["status"], "revoked", "{provider}");
        }
        stage.finish().await;
    }

    async fn the_route_with_a_provider_takes_nothing_from_its_neighbours(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let github = stage.connect("org", "github", 1).await;
        let another = format!("/connections/linear/{github}");
        assert_eq!(stage.refused("org", "DELETE", &another, None).await, (404, "not_found".into()));
        let unknown = "/connections/github/in_none";
        assert_eq!(stage.refused("org", "DELETE", unknown, None).await, (404, "not_found".into()));
        let token = format!("/connections/{github}/token");
        assert_eq!(stage.refused("org", "DELETE", &token, None).await, (405, "method_not_allowed".into()));
        assert_eq!(stage.ask("org", "GET", &format!("/connections/{github}"), None).await["status"], "active");
        stage.finish().await;
    }
}
