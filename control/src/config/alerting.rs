//! What is looked for in the audit stream, and who is told.

use std::path::PathBuf;

use http::Uri;
use picket_detect::Level;
use picket_settings::{Check, ConfigError, Setting};

use super::file::{AlertsFile, DetectionFile, RespondFile, SinkFile, WebhookFile};
use crate::detection::Detection;
use crate::notify::{Alerting, Email, Flapping, Sink, SinkKind, Transport};
use crate::respond::Responding;

const MAX_SINKS: usize = 32;
const NAME: &str = "a name of a-z 0-9 - with at most 63 characters";
const PATH: &str = "the path of a file";
const URL: &str = "a URL such as https://alerts.example/picket";
const LINK: &str = "a URL without a query, such as https://picket.shop.example/alerts";
const SYSLOG: &str = "a URL such as tls://log.example:6514, with tls, tcp or udp and a port";
const SMTP: &str =
    "a URL such as smtp://mail.example:587 (STARTTLS) or smtps://mail.example:465, with a port";
const MAILBOX: &str = "an e-mail address such as oncall@shop.example";
const BUDGET: &str = "a number of alarms for a service in a week from 0.01 to 1000, such as 1";
const DIRECTORY: &str = "the path of a directory of Sigma rules";

pub(super) fn detection(check: Check<'_>, file: &DetectionFile) -> Result<Detection, ConfigError> {
    let switch = [("true", true), ("false", false)];
    let rules_dir = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let enabled = check.one_of(&file.enabled, "detection.enabled", &switch)?;
    let shipped = check.one_of(&file.shipped_rules, "detection.shippedRules", &switch)?;
    let learns = check
        .one_of(&file.profiles.enabled, "detection.profiles.enabled", &switch)?
        .unwrap_or(true);
    let number = |text: &str| text.parse().ok().filter(|budget| (0.01..=1_000.0).contains(budget));
    let key = "detection.profiles.budget";
    let budget: Option<f64> = check.optional(&file.profiles.budget, key, BUDGET, number)?;
    Ok(Detection {
        enabled: enabled.unwrap_or(true),
        rules_dir: check.optional(&file.rules_dir, "detection.rulesDir", DIRECTORY, rules_dir)?,
        shipped_rules: shipped.unwrap_or(true),
        profiles: learns.then(|| budget.unwrap_or(1.0)),
    })
}

pub(super) fn responding(check: Check<'_>, file: &RespondFile) -> Result<Responding, ConfigError> {
    let switch = [("true", true), ("false", false)];
    let enabled = check.one_of(&file.enabled, "respond.enabled", &switch)?;
    let accepted = "namespace/service account or a SPIFFE ID, with stars";
    let glob = |text: &str| (text.contains(['/', '*'])).then(|| text.to_owned());
    let protected = file.protected.iter();
    let protected =
        protected.map(|setting| check.value(setting, "respond.protected", accepted, glob));
    let protected = protected.collect::<Result<_, _>>()?;
    Ok(Responding { enabled: enabled.unwrap_or(true), protected })
}

/// An http or https URL without a login.
fn web(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    (is_http && url.authority().is_some_and(|a| !a.as_str().contains('@'))).then_some(url)
}

pub(super) fn alerting(
    check: Check<'_>,
    file: &AlertsFile,
    webhooks: &[WebhookFile],
) -> Result<Alerting, ConfigError> {
    let defaults = Alerting::default();
    let base = |text: &str| web(text).filter(|url| url.query().is_none());
    let link_base = check.optional(&file.link_base, "alerts.linkBase", LINK, base)?;
    let day = 24 * 3600;
    let retention = check.duration(&file.retention, "alerts.retention", (day, 36_600 * day))?;
    let written = &file.flapping;
    let episodes = check.number(&written.episodes, "alerts.flapping.episodes", (2, 1_000))?;
    let within = check.duration(&written.within, "alerts.flapping.within", (1, day))?;
    let flapping = Flapping {
        episodes: episodes.unwrap_or(defaults.flapping.episodes),
        within: within.unwrap_or(defaults.flapping.within),
    };
    let heartbeat = check.duration(&file.heartbeat, "alerts.heartbeat", (1, 24 * 3600))?;
    let mut sinks: Vec<Sink> = Vec::new();
    for (index, written) in file.sinks.iter().enumerate() {
        let sink = sink(check, written, index)?;
        if index >= MAX_SINKS || sinks.iter().any(|other| other.name == sink.name) {
            let key = format!("alerts.sinks[{index}].name");
            let origin = written.name.as_ref().map(|name| &name.origin);
            let message = format!(
                "{key} is \"{}\" a second time, or there are more than {MAX_SINKS} sinks; \
                 give each sink a name of its own",
                sink.name
            );
            return Err(check.conflict(origin, message));
        }
        sinks.push(sink);
    }
    for (index, written) in webhooks.iter().enumerate() {
        let sink = webhook(check, written, index)?;
        if index >= MAX_SINKS || sinks.iter().any(|other| other.name == sink.name) {
            let key = format!("respond.webhooks[{index}].name");
            let origin = written.name.as_ref().map(|name| &name.origin);
            let message = format!(
                "{key} is \"{}\" a second time, or there are more than {MAX_SINKS} webhooks; \
                 give each webhook a name that no other one and no sink has",
                sink.name
            );
            return Err(check.conflict(origin, message));
        }
        sinks.push(sink);
    }
    let retention = retention.unwrap_or(defaults.retention);
    Ok(Alerting { sinks, heartbeat, link_base, retention, flapping })
}

/// A webhook that responses call. Its receiver acts on what it is sent, so it has to be able to tell who sends it.
fn webhook(check: Check<'_>, file: &WebhookFile, index: usize) -> Result<Sink, ConfigError> {
    let key = |name: &str| format!("respond.webhooks[{index}].{name}");
    let name = |text: &str| super::is_dns_label(text).then(|| text.to_owned());
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    Ok(Sink {
        name: check.needed(&file.name, &key("name"), NAME, name)?,
        kind: SinkKind::Webhook {
            url: check.needed(&file.url, &key("url"), URL, web)?,
            secret: Some(check.needed(&file.secret_file, &key("secretFile"), PATH, path)?),
        },
        min_severity: Level::Informational,
        ca_certificate: check.optional(&file.ca_certificate, &key("caCertificate"), PATH, path)?,
        is_for_responses: true,
    })
}

fn sink(check: Check<'_>, file: &SinkFile, index: usize) -> Result<Sink, ConfigError> {
    let key = |name: &str| format!("alerts.sinks[{index}].{name}");
    let name = |text: &str| super::is_dns_label(text).then(|| text.to_owned());
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let kinds =
        ["alertmanager", "webhook", "slack", "syslog", "email", "file"].map(|kind| (kind, kind));
    let levels = Level::ALL.map(|level| (level.as_str(), level));
    let min_severity = check.one_of(&file.min_severity, &key("minSeverity"), &levels)?;
    let name = check.needed(&file.name, &key("name"), NAME, name)?;
    let kind = check.one_of(&file.kind, &key("kind"), &kinds)?;
    let kind = kind.ok_or_else(|| {
        check.missing(key("kind"), "alertmanager, webhook, slack, syslog, email or file")
    })?;
    let to = file.to.first().cloned();
    let urls = file.urls.first().cloned();
    let given: [(&str, &Option<Setting>, &[&str]); 10] = [
        ("urls", &urls, &["alertmanager"]),
        ("url", &file.url, &["alertmanager", "webhook", "syslog", "email"]),
        (
            "caCertificate",
            &file.ca_certificate,
            &["alertmanager", "webhook", "slack", "syslog", "email"],
        ),
        ("from", &file.from, &["email"]),
        ("to", &to, &["email"]),
        ("username", &file.username, &["email"]),
        ("passwordFile", &file.password_file, &["email"]),
        ("urlFile", &file.url_file, &["slack"]),
        ("secretFile", &file.secret_file, &["webhook"]),
        ("path", &file.path, &["file"]),
    ];
    for (field, value, kinds) in given {
        if let Some(value) = value
            && !kinds.contains(&kind)
        {
            let message = format!(
                "{} goes with the kind {}, and this sink is of the kind {kind}; remove it",
                key(field),
                kinds.join(" or ")
            );
            return Err(check.conflict(Some(&value.origin), message));
        }
    }
    let kind = match kind {
        "alertmanager" => SinkKind::Alertmanager { urls: alertmanagers(check, file, &key)? },
        "webhook" => SinkKind::Webhook {
            url: check.needed(&file.url, &key("url"), URL, web)?,
            secret: check.optional(&file.secret_file, &key("secretFile"), PATH, path)?,
        },
        "slack" => {
            SinkKind::Slack { url: check.needed(&file.url_file, &key("urlFile"), PATH, path)? }
        }
        "syslog" => {
            let read = |text: &str| server(text, &SYSLOG_SCHEMES);
            let (transport, host, port) = check.needed(&file.url, &key("url"), SYSLOG, read)?;
            SinkKind::Syslog { transport, host, port }
        }
        "email" => SinkKind::Email(email(check, file, &key)?),
        _ => SinkKind::File { path: check.needed(&file.path, &key("path"), PATH, path)? },
    };
    let min_severity = min_severity.unwrap_or(Level::Informational);
    let ca_certificate = check.optional(&file.ca_certificate, &key("caCertificate"), PATH, path)?;
    Ok(Sink { name, kind, min_severity, ca_certificate, is_for_responses: false })
}

/// One, or those of one cluster.
fn alertmanagers(
    check: Check<'_>,
    file: &SinkFile,
    key: &impl Fn(&str) -> String,
) -> Result<Vec<Uri>, ConfigError> {
    if file.urls.is_empty() {
        return Ok(vec![check.needed(&file.url, &key("url"), URL, web)?]);
    }
    if let Some(url) = &file.url {
        let message = format!("{} and {} are the same; keep one", key("url"), key("urls"));
        return Err(check.conflict(Some(&url.origin), message));
    }
    let urls = file.urls.iter().enumerate();
    urls.map(|(i, url)| check.value(url, &format!("{}[{i}]", key("urls")), URL, web)).collect()
}

const SYSLOG_SCHEMES: [(&str, Transport); 3] =
    [("udp", Transport::Udp), ("tcp", Transport::Tcp), ("tls", Transport::Tls)];

/// A URL of nothing but a scheme, a host and a port.
fn server<T: Copy>(text: &str, schemes: &[(&str, T)]) -> Option<(T, String, u16)> {
    let url: Uri = text.parse().ok()?;
    let (_, scheme) = schemes.iter().find(|(name, _)| url.scheme_str() == Some(name))?;
    let is_bare = matches!(url.path(), "" | "/") && url.query().is_none();
    let authority = url.authority().filter(|a| is_bare && !a.as_str().contains('@'))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    Some((*scheme, host.to_owned(), authority.port_u16()?))
}

fn email(
    check: Check<'_>,
    file: &SinkFile,
    key: &impl Fn(&str) -> String,
) -> Result<Email, ConfigError> {
    let url = |text: &str| server(text, &[("smtp", false), ("smtps", true)]);
    let (implicit_tls, host, port) = check.needed(&file.url, &key("url"), SMTP, url)?;
    let mailbox = |text: &str| text.parse().ok();
    let from = check.needed(&file.from, &key("from"), MAILBOX, mailbox)?;
    let to = file.to.iter().enumerate();
    let to = to.map(|(i, to)| check.value(to, &format!("{}[{i}]", key("to")), MAILBOX, mailbox));
    let to = to.collect::<Result<Vec<_>, _>>()?;
    if to.is_empty() {
        return Err(check.missing(key("to"), format!("a list of at least one: {MAILBOX}")));
    }
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let name = check.optional(&file.username, &key("username"), "a name", text)?;
    let password = check.optional(&file.password_file, &key("passwordFile"), PATH, path)?;
    let login = match (name, password) {
        (Some(name), Some(password)) => Some((name, password)),
        (None, None) => None,
        _ => {
            let origin = file.username.as_ref().or(file.password_file.as_ref());
            let message = format!(
                "{} and {} go together; set both or none",
                key("username"),
                key("passwordFile")
            );
            return Err(check.conflict(origin.map(|setting| &setting.origin), message));
        }
    };
    Ok(Email { host, port, implicit_tls, from, to, login })
}
