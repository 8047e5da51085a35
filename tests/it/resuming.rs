//! Suspensions that end unheard: the provider does not tell, or its webhook is lost.

use serde_json::{Value, json};
use signalbox::sim::world::{Fault, FaultRule, Loss};

use crate::support::{Backend, Options, Stage, on_both};

const ORG: &str = "org";
/// What people do at a provider to pause an installation, and to let it go on.
const PAUSES: [(&str, &str, &str); 2] = [("github", "suspend", "unsuspend"), ("vercel", "disable", "enable")];

async fn act(stage: &Stage, provider: &str, act: &str) {
    let done = match provider {
        "github" => stage.world.github.act(act, 1, &json!({})).await,
        _ => stage.world.vercel.act(act, 1, &json!({})).await,
    };
    done.expect("done");
}

fn is(status: &str) -> impl Fn(&Value) -> bool {
    move |connection| connection["status"] == status
}

on_both! {
    async fn whoever_looks_at_a_suspended_connection_finds_out_that_it_goes_on(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        stage.world.github.set(|github| github.loss = Loss::Traceless);
        for (provider, pause, resume) in PAUSES {
            let id = stage.connect(ORG, provider, 1).await;
            let resource = match provider {
                "github" => stage.world.github.facts(1, 1).resource_id,
                _ => stage.world.vercel.facts(1, 1).resource_id,
            };
            let body = json!({"connectionId": id, "resources": [{"providerResourceId": resource}]});
            let made = stage.ask(ORG, "POST", "/workspaces/ws/integrations", Some(body)).await;
            let integration = format!("/integrations/{}", made["integrations"][0]["id"].as_str().expect("an id"));
            if provider == "github" {
                // What is looked up after a link would find out about the suspension, too.
                stage.until(ORG, &integration, |made| made["sourceConfig"]["status"].is_object()).await;
            }
            let (path, validate) = (format!("/connections/{id}"), format!("/connections/{id}/validate"));
            act(&stage, provider, pause).await;
            for _again in 0..2 {
                let refused = stage.refused(ORG, "POST", &validate, None).await;
                assert_eq!(refused, (400, "installation_not_active".to_owned()), "{provider}");
                assert_eq!(stage.ask(ORG, "GET", &path, None).await["status"], "suspended", "{provider}");
                assert_eq!(stage.ask(ORG, "GET", &integration, None).await["status"], "suspended", "{provider}");
            }
            act(&stage, provider, resume).await;
            let refused = stage.refused(ORG, "GET", &format!("{path}/token"), None).await;
            assert_eq!(refused, (400, "installation_not_active".to_owned()), "a token asks nobody");
            let look = stage.ask(ORG, "POST", &validate, None).await;
            assert_eq!(look["total"], 3, "{provider}");
            assert_eq!(stage.ask(ORG, "GET", &path, None).await["status"], "active", "{provider}");
            assert_eq!(stage.ask(ORG, "GET", &integration, None).await["status"], "active", "{provider}");
        }
        stage.finish().await;
    }

    async fn an_outage_and_an_end_are_no_resumption(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        stage.world.github.set(|github| github.loss = Loss::Traceless);
        for (provider, pause, _) in PAUSES {
            let id = stage.connect(ORG, provider, 1).await;
            let (path, validate) = (format!("/connections/{id}"), format!("/connections/{id}/validate"));
            act(&stage, provider, pause).await;
            stage.refused(ORG, "POST", &validate, None).await;
            let outage = || FaultRule::always("* /**", Fault::status(503));
            stage.world.github.fail(outage());
            stage.world.vercel.fail(outage());
            let refused = stage.refused(ORG, "POST", &validate, None).await;
            assert_eq!(refused, (502, "provider_unavailable".to_owned()), "{provider}");
            assert_eq!(stage.ask(ORG, "GET", &path, None).await["status"], "suspended", "{provider}");
            stage.world.github.heal();
            stage.world.vercel.heal();
            stage.world.vercel.set(|vercel| vercel.loss = Loss::Traceless);
            act(&stage, provider, "uninstall").await;
            let refused = stage.refused(ORG, "POST", &validate, None).await;
            assert_eq!(refused, (400, "installation_not_active".to_owned()), "{provider}");
            assert_eq!(stage.ask(ORG, "GET", &path, None).await["status"], "revoked", "{provider}");
        }
        stage.finish().await;
    }
}

#[tokio::test]
async fn a_suspended_connection_is_looked_at_without_anybody_asking() {
    let stage = Stage::set(Backend::sqlite(), Options::default().with("SIGNALBOX_RESOURCES__RELIST_S", "1")).await;
    let path = format!("/connections/{}", stage.connect(ORG, "vercel", 1).await);
    for (done, status) in [("disable", "suspended"), ("enable", "active")] {
        act(&stage, "vercel", done).await;
        stage.until(ORG, &path, is(status)).await;
    }
    stage.finish().await;
}
