//! `GET /admin/settings`: the configuration as it is in force.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{auth::ServiceReader, gateway::Gateway, problem::Answer, schemas};
use crate::config::{KnownSetting, SettingSource};

/// The settings as they are shown: of a provider that is disabled there is nothing to see, and a public URL that follows
/// a port that was chosen at the start has that port.
pub fn shown_settings(gateway: &Gateway) -> Vec<KnownSetting> {
    let Gateway { config, connecting, .. } = gateway;
    let is_shown = |setting: &&KnownSetting| {
        let provider = setting.section.strip_prefix("providers.");
        provider.is_none_or(|slug| config.providers.contains_key(slug))
    };
    let as_in_force = |setting: &KnownSetting| {
        let mut setting = setting.clone();
        if setting.name() == "server.public_url" && setting.source == SettingSource::Default {
            setting.value = Some(connecting.public_url().base().as_str().trim_end_matches('/').into());
        }
        setting
    };
    config.settings.iter().filter(is_shown).map(as_in_force).collect()
}

/// The word for who set it.
pub fn source_word(source: SettingSource) -> &'static str {
    match source {
        SettingSource::Default => "default",
        SettingSource::File => "file",
        SettingSource::Environment => "environment",
    }
}

fn setting_json(setting: &KnownSetting) -> Value {
    json!({
        "name": setting.name(),
        "variable": setting.variable(),
        "source": source_word(setting.source),
        "secret": setting.secret,
        "isSet": setting.value.is_some() || setting.source != SettingSource::Default,
        "value": setting.value,
        "default": setting.default.as_ref().filter(|_| !setting.secret),
    })
}

/// `GET /admin/settings`: every setting in force, and whether the file, the environment or nobody set it. Of secrets only that. A change of any takes effect
/// with the next start.
///
/// # Errors
/// None of its own.
#[utoipa::path(get, path = "/admin/settings", responses((status = 200, body = schemas::Settings)))]
pub async fn show(_caller: ServiceReader, gateway: web::Data<Gateway>) -> Answer {
    let items: Vec<_> = shown_settings(&gateway).iter().map(setting_json).collect();
    Ok(HttpResponse::Ok().json(json!({
        "file": gateway.config.file.as_ref().map(|path| path.display().to_string()),
        "items": items,
    })))
}
