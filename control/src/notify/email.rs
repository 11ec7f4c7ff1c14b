//! E-mail over SMTP, encrypted unless the server is on this machine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use picket_certs::files;

use super::{Notice, SendError, State, clean, held, summary};

/// Longest subject; the text has the rest.
const SUBJECT: usize = 160;

/// A server, and whom it is to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Encrypted from the first byte (`smtps`), not by STARTTLS.
    pub implicit_tls: bool,
    /// Who it is from.
    pub from: Mailbox,
    /// Who it is for.
    pub to: Vec<Mailbox>,
    /// A name and the file with its password.
    pub login: Option<(String, PathBuf)>,
}

pub(super) async fn send(
    email: &Email,
    authorities: Option<&Path>,
    limit: Duration,
    notice: &Notice,
) -> Result<(), SendError> {
    let message = message(email, notice)?;
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&email.host)
        .port(email.port)
        .hello_name(ClientId::Domain("picket.invalid".to_owned()))
        .timeout(Some(limit))
        .tls(encryption(email, authorities)?);
    if let Some((name, file)) = &email.login {
        // Read each time: a password that was replaced counts at once.
        let password = files::read_private(file).map_err(|error| SendError::file(&error))?;
        let password = std::str::from_utf8(password.trim_ascii());
        let password = password
            .map_err(|_| SendError::Refused("the file of passwordFile is not UTF-8".to_owned()))?;
        builder = builder.credentials(Credentials::new(name.clone(), password.to_owned()));
    }
    let sent = builder.build::<Tokio1Executor>().send(message).await;
    sent.map(drop).map_err(|error| {
        let reason: String = crate::chain(&error).to_string().chars().take(300).collect();
        let reason = reason.escape_debug().to_string();
        match error.is_permanent() {
            true => SendError::Refused(reason),
            false => SendError::Unavailable { reason, retry_after: None },
        }
    })
}

/// What is demanded; never less because the server offers less.
fn encryption(email: &Email, authorities: Option<&Path>) -> Result<Tls, SendError> {
    let is_here = email.host == "localhost"
        || email.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_here && !email.implicit_tls && authorities.is_none() {
        return Ok(Tls::None);
    }
    let refused = |error: lettre::transport::smtp::Error| {
        SendError::Refused(format!("TLS: {}", crate::chain(&error)))
    };
    let mut builder = TlsParameters::builder(email.host.clone());
    if let Some(path) = authorities {
        let pem = files::read_public(path).map_err(|error| SendError::file(&error))?;
        builder = builder
            .certificate_store(CertificateStore::None)
            .add_root_certificate(Certificate::from_pem(&pem).map_err(refused)?);
    }
    let parameters = builder.build_rustls().map_err(refused)?;
    Ok(match email.implicit_tls {
        true => Tls::Wrapper(parameters),
        false => Tls::Required(parameters),
    })
}

fn message(email: &Email, notice: &Notice) -> Result<Message, SendError> {
    let alert = &notice.alert;
    let state = match notice.state {
        State::Firing => alert.severity.as_str().to_uppercase(),
        other => other.as_str().to_owned(),
    };
    // Without control characters: a header has one line.
    let subject: String =
        format!("[picket] {state}: {}", summary(alert)).chars().take(SUBJECT).collect();
    let domain = email.from.email.domain();
    let mut builder = Message::builder()
        .from(email.from.clone())
        // The same each time: mail clients show a second copy as the same message.
        .message_id(Some(format!("<{}@{domain}>", notice.key)))
        .subject(subject)
        .header(ContentType::TEXT_PLAIN);
    for to in &email.to {
        builder = builder.to(to.clone());
    }
    builder.body(words(notice)).map_err(|error| SendError::Refused(error.to_string()))
}

fn words(notice: &Notice) -> String {
    let alert = &notice.alert;
    let mut lines = vec![summary(alert), String::new()];
    let facts = [
        ("state", notice.state.as_str()),
        ("severity", alert.severity.as_str()),
        ("rule", &alert.rule),
        ("first", &alert.first),
        ("last", &alert.last),
    ];
    let facts = facts.iter().map(|(name, value)| (*name, *value));
    let group = alert.group.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let records = alert.records.iter().map(|record| ("record", record.as_str()));
    let traces = notice.traces.iter().map(|trace| ("trace", trace.as_str()));
    let all = facts.chain(group).chain(records).chain(traces);
    lines.extend(all.map(|(name, value)| format!("{}: {}", clean(name), clean(value))));
    lines.extend(alert.controls.iter().map(|control| format!("control: {}", clean(control))));
    lines.push(format!("matches: {}", alert.count));
    if notice.episode > 1 {
        lines.push(format!("episode: {}{}", notice.episode, held(notice)));
    }
    if notice.state == State::Digest {
        lines.push(format!("picket alerts list --all --rule {}", alert.rule));
    } else if notice.state != State::Test && notice.state != State::Heartbeat {
        lines.push(String::new());
        lines.push(format!("picket alerts show {}", alert.id));
        lines.extend(notice.link.clone());
    }
    lines.join("\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::about_ourselves;

    #[test]
    fn no_value_makes_a_header_or_a_recipient() {
        let at = "2026-01-01T00:00:00.000Z".to_owned();
        let mut alert = about_ourselves(State::Firing, at.clone());
        let evil = "x\r\nBcc: evil@example.com\r\n\r\n.\r\nMAIL FROM:<evil@example.com>";
        alert.title = evil.to_owned();
        alert.group.insert("url.path".to_owned(), evil.to_owned());
        let notice = Notice {
            version: 1,
            key: "k.firing".to_owned(),
            state: State::Firing,
            at,
            alert,
            traces: Vec::new(),
            generation: None,
            episode: 1,
            flapping: false,
            link: None,
            response: None,
        };
        let email = Email {
            host: "mail.example".to_owned(),
            port: 587,
            implicit_tls: false,
            from: "picket@shop.example".parse().unwrap(),
            to: vec!["oncall@shop.example".parse().unwrap()],
            login: None,
        };
        let message = message(&email, &notice).unwrap();
        assert_eq!(message.envelope().to().len(), 1);
        let text = String::from_utf8(message.formatted()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let starts = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!(starts("Message-ID: <k.firing@shop.example>"), 1, "{text}");
        assert_eq!([starts("Subject: "), starts("To: ")], [1, 1], "{text}");
        assert_eq!([starts("Bcc"), starts("MAIL"), starts(".")], [0, 0, 0], "{text}");
    }

    #[test]
    fn only_on_this_machine_it_may_be_in_clear() {
        let mut email = Email {
            host: "127.0.0.1".to_owned(),
            port: 25,
            implicit_tls: false,
            from: "picket@shop.example".parse().unwrap(),
            to: Vec::new(),
            login: None,
        };
        assert!(matches!(encryption(&email, None).unwrap(), Tls::None));
        email.host = "192.0.2.1".to_owned();
        assert!(matches!(encryption(&email, None).unwrap(), Tls::Required(_)));
        email.implicit_tls = true;
        assert!(matches!(encryption(&email, None).unwrap(), Tls::Wrapper(_)));
    }
}
