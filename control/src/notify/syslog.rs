//! Syslog: RFC 5424 messages over UDP (RFC 5426), TCP (RFC 6587, octet counting) or TLS (RFC 5425).
//!
//! Each message has a connection of its own. The protocol has no acknowledgement; but whoever has read a connection to
//! its end closes it, so waiting for that finds most of what was not taken. Over UDP nobody knows.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use picket_detect::Level;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Notice, SendError, clean, summary};

/// Facility 10: security and authorization.
const FACILITY: u8 = 10;
/// The number that RFC 5612 keeps for documentation: ours until there is one of our own.
const ENTERPRISE: &str = "32473";
/// How long the receiver is waited for after the message: some never close.
const LINGER: Duration = Duration::from_secs(2);
/// What a datagram takes on every way (RFC 5426, 3.2); values are cut so that the rest fits in practice.
const MAX_DATAGRAM: usize = 8192;

/// How a receiver is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Unencrypted datagrams; what is lost is lost.
    Udp,
    /// Unencrypted, octet counting.
    Tcp,
    /// Encrypted, octet counting.
    Tls,
}

pub(super) async fn send(
    (transport, host, port): (Transport, &str, u16),
    tls: &Arc<ClientConfig>,
    notice: &Notice,
) -> Result<(), SendError> {
    let message = message(notice, &hostname());
    let sent = match transport {
        Transport::Udp => datagram(host, port, message.as_bytes()).await,
        Transport::Tcp => match TcpStream::connect((host, port)).await {
            Ok(stream) => framed(stream, &message).await,
            Err(error) => Err(error),
        },
        Transport::Tls => encrypted(host, port, tls, &message).await,
    };
    sent.map_err(|error| SendError::io("syslog", &error))
}

async fn datagram(host: &str, port: u16, message: &[u8]) -> io::Result<()> {
    let address = lookup_host((host, port)).await?.next();
    let address = address.ok_or_else(|| io::Error::other("the host has no address"))?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    let part = message.get(..MAX_DATAGRAM).unwrap_or(message);
    socket.send(part).await?;
    Ok(())
}

async fn encrypted(
    host: &str,
    port: u16,
    tls: &Arc<ClientConfig>,
    message: &str,
) -> io::Result<()> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, port)).await?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
    framed(stream, message).await
}

async fn framed(mut stream: impl AsyncRead + AsyncWrite + Unpin, message: &str) -> io::Result<()> {
    stream.write_all(format!("{} {message}", message.len()).as_bytes()).await?;
    stream.shutdown().await?;
    let mut ignored = Vec::new();
    let mut rest = (&mut stream).take(4096);
    match timeout(LINGER, rest.read_to_end(&mut ignored)).await {
        // It closes without saying so in TLS: it has closed.
        Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(()),
    }
}

fn message(notice: &Notice, host: &str) -> String {
    let alert = &notice.alert;
    let severity = match alert.severity {
        Level::Critical => 2,
        Level::High => 3,
        Level::Medium => 4,
        Level::Low => 5,
        Level::Informational => 6,
    };
    let mut out = format!(
        "<{}>1 {} {host} picket {} {} ",
        FACILITY * 8 + severity,
        notice.at,
        std::process::id(),
        notice.state.as_str(),
    );
    let episode = notice.episode.to_string();
    let ours = [
        ("key", notice.key.as_str()),
        ("state", notice.state.as_str()),
        ("alert", &alert.id),
        ("rule", &alert.rule),
        ("severity", alert.severity.as_str()),
        ("first", &alert.first),
        ("last", &alert.last),
        ("episode", &episode),
    ];
    let link = notice.link.iter().map(|link| ("link", link.as_str()));
    element(&mut out, "picket", ours.into_iter().chain(link));
    if !alert.group.is_empty() {
        let group = alert.group.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        element(&mut out, "group", group);
    }
    // The byte order mark says that what follows is UTF-8.
    let _infallible = write!(out, " \u{feff}{}", summary(alert));
    out
}

/// A structured-data element.
fn element<'v>(out: &mut String, id: &str, values: impl Iterator<Item = (&'v str, &'v str)>) {
    let _infallible = write!(out, "[{id}@{ENTERPRISE}");
    for (name, value) in values {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
            .take(32)
            .collect();
        let _infallible = write!(out, " {name}=\"");
        for c in clean(value).chars() {
            if matches!(c, '"' | '\\' | ']') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    }
    out.push(']');
}

/// As the system calls itself, if that can stand in a message.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let is_good = (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    if is_good { name.to_owned() } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::{State, about_ourselves};

    #[test]
    fn no_value_ends_its_element_or_its_message() {
        let at = "2026-01-01T00:00:00.000Z".to_owned();
        let mut alert = about_ourselves(State::Test, at.clone());
        alert.severity = Level::High;
        let evil = "a\"]\\\r\n<34>1 - evil\u{202e}";
        alert.group.insert("url.path".to_owned(), evil.to_owned());
        alert.group.insert("a name]=\" that is much too long to be one".to_owned(), "é".to_owned());
        let notice = Notice {
            version: 1,
            key: "k.test".to_owned(),
            state: State::Test,
            at,
            alert,
            traces: Vec::new(),
            generation: None,
            episode: 1,
            flapping: false,
            link: None,
            response: None,
        };
        let text = message(&notice, "host");
        let pid = std::process::id();
        assert!(
            text.starts_with(&format!(
                "<83>1 2026-01-01T00:00:00.000Z host picket {pid} test [picket@32473 key=\"k.test\""
            )),
            "{text}"
        );
        let group = "[group@32473 a_name____that_is_much_too_long_=\"é\" \
                     url.path=\"a\\\"\\]\\\\\u{fffd}\u{fffd}<34>1 - evil\u{fffd}\"] \u{feff}";
        assert!(text.contains(group), "{text}");
        assert!(!text.contains(['\r', '\n']), "{text}");
    }
}
