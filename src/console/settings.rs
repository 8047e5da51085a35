//! `/console/settings`: what the doctor says of this gateway, and the settings in force.

use actix_web::web;
use askama::Template;
use serde_json::Value;

use super::{
    layout::{Layout, Section},
    render, ui,
    visitor::Visitor,
};
use crate::{
    config::{KnownSetting, SettingSource},
    doctor::{Finding, Verdict, examine_running},
    routes::{Answer, Gateway, Problem, error_codes as codes, shown_settings, source_word},
};

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsPage {
    layout: Layout,
    findings: Vec<Finding>,
    mistakes: usize,
    warnings: usize,
    file: Option<String>,
    sections: Vec<SettingSection>,
    backend: &'static str,
    version: &'static str,
    uptime_ms: u64,
}

/// The settings of one section of the configuration.
struct SettingSection {
    name: String,
    settings: Vec<KnownSetting>,
}

/// `GET /console/settings`: the doctor's report and the settings; service keys only.
pub async fn show(visitor: Visitor, gateway: web::Data<Gateway>) -> Answer {
    if !visitor.caller.is_service() {
        return Err(Problem::new(&codes::SERVICE_KEY_REQUIRED));
    }
    let public_url = gateway.connecting.public_url().base();
    let report = examine_running(&gateway.config, public_url, gateway.store.as_ref(), &gateway.registry).await;
    let mut sections: Vec<SettingSection> = Vec::new();
    for setting in shown_settings(&gateway) {
        match sections.last_mut().filter(|section| section.name == setting.section) {
            Some(section) => section.settings.push(setting),
            None => sections.push(SettingSection { name: setting.section.clone(), settings: vec![setting] }),
        }
    }
    render(&SettingsPage {
        layout: visitor.layout(Section::Settings, "Settings"),
        mistakes: report.count(Verdict::Mistake),
        warnings: report.count(Verdict::Warning),
        findings: report.findings,
        file: gateway.config.file.as_ref().map(|path| path.display().to_string()),
        sections,
        backend: gateway.store.backend(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: u64::try_from(gateway.readiness.uptime().as_millis()).unwrap_or(u64::MAX),
    })
}

/// The word of a verdict.
fn verdict(finding: &Finding) -> &'static str {
    match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Note => "note",
        Verdict::Warning => "warning",
        Verdict::Mistake => "mistake",
    }
}

/// A setting's value as it is shown; of a secret only whether there is one.
fn value(setting: &KnownSetting) -> String {
    if setting.secret {
        let is_set = setting.value.is_some() || setting.source != SettingSource::Default;
        return if is_set { "set, not shown".to_owned() } else { String::new() };
    }
    let shown = setting.value.as_ref().and_then(|value| serde_json::to_value(value).ok());
    shown.as_ref().map(in_words).unwrap_or_default()
}

/// A value as it would be typed: lists with commas, texts without quotes.
fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(in_words).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Who set it.
fn source(setting: &KnownSetting) -> &'static str {
    source_word(setting.source)
}
