//! Where traces are forwarded to: from `export` of the file, or from OpenTelemetry's own variables.
//!
//! Specification: OpenTelemetry, "OTLP exporter configuration"; W3C Baggage for the header list.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use picket_settings::{Check, ConfigError, Origin, Setting};

use super::file::{ExportFile, SamplingFile};

/// How long one exported batch may take, unless set.
const TIMEOUT: Duration = Duration::from_secs(10);

const ENDPOINT: &str = "a URL such as http://127.0.0.1:4317 or https://collector.example:4317";
const FILE: &str = "the path of a PEM file";

/// From when on a request is slow, unless set.
const SLOW: Duration = Duration::from_secs(1);
/// How long a trace may settle, unless set.
const WAIT: Duration = Duration::from_secs(10);

/// How batches are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC, usually port 4317.
    Grpc,
    /// OTLP/HTTP with binary protobuf, usually port 4318.
    HttpProtobuf,
}

/// An OTLP endpoint.
#[derive(Debug, Clone)]
pub struct Export {
    /// Where batches are sent; with [`Protocol::HttpProtobuf`] the whole URL, path included.
    pub endpoint: Uri,
    /// How.
    pub protocol: Protocol,
    /// Sent with every batch; their values are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether batches are sent compressed with gzip.
    pub gzip: bool,
    /// PEM file with the authorities to believe, in place of the system's.
    pub ca_certificate: Option<PathBuf>,
    /// PEM files of a certificate chain and its key, to be shown to the endpoint.
    pub client: Option<(PathBuf, PathBuf)>,
    /// How long one batch may take.
    pub timeout: Duration,
    /// Which traces are sent; none: all of them, at once.
    pub sampling: Option<Sampling>,
}

/// Which traces are forwarded, looked at as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// The share of the traces without anything notable, from 0 to less than 1.
    pub share: f64,
    /// A request that lasts as long is notable.
    pub slow: Duration,
    /// How long after its last span a trace is looked at.
    pub wait: Duration,
}

/// The endpoint that is configured, if one is.
pub(super) fn export(
    check: Check<'_>,
    file: &ExportFile,
    env: &[(String, String)],
) -> Result<Option<Export>, ConfigError> {
    let protocol = file.protocol.clone().or_else(|| otel(env, "PROTOCOL"));
    let protocol = check
        .one_of(
            &protocol,
            "export.protocol",
            &[("grpc", Protocol::Grpc), ("http/protobuf", Protocol::HttpProtobuf)],
        )?
        .unwrap_or(Protocol::Grpc);
    let Some(endpoint) = endpoint(check, file, env, protocol)? else { return Ok(None) };
    let compression = file.compression.clone().or_else(|| otel(env, "COMPRESSION"));
    let compression =
        check.one_of(&compression, "export.compression", &[("none", false), ("gzip", true)])?;
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let ca_certificate = file.ca_certificate.clone().or_else(|| otel(env, "CERTIFICATE"));
    Ok(Some(Export {
        endpoint,
        protocol,
        headers: headers(check, file, env)?,
        gzip: compression.unwrap_or(false),
        ca_certificate: check.optional(&ca_certificate, "export.caCertificate", FILE, path)?,
        client: client(check, file, env)?,
        timeout: timeout(check, file, env)?,
        sampling: sampling(check, &file.sampling)?,
    }))
}

/// Where batches go, path included.
fn endpoint(
    check: Check<'_>,
    file: &ExportFile,
    env: &[(String, String)],
    protocol: Protocol,
) -> Result<Option<Uri>, ConfigError> {
    let traces_url = || variable(env, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").map(|s| (s, true));
    let base_url = || variable(env, "OTEL_EXPORTER_OTLP_ENDPOINT").map(|s| (s, false));
    let (endpoint, is_whole) = match &file.otlp {
        Some(setting) => (setting.clone(), false),
        None => match traces_url().or_else(base_url) {
            Some(found) => found,
            None => return Ok(None),
        },
    };
    if file.otlp.is_none()
        && protocol == Protocol::Grpc
        && let Some(uri) = without_scheme(check, &endpoint.value, env)?
    {
        return Ok(Some(uri));
    }
    let uri = check.value(&endpoint, "export.otlp", ENDPOINT, url)?;
    let appended = protocol == Protocol::HttpProtobuf && !is_whole;
    Ok(Some(if appended { with_path(uri) } else { uri }))
}

/// Of OpenTelemetry's variables one for gRPC may have no scheme; then another one says whether it is
/// encrypted, and it is unless that is switched off.
fn without_scheme(
    check: Check<'_>,
    endpoint: &str,
    env: &[(String, String)],
) -> Result<Option<Uri>, ConfigError> {
    if endpoint.contains("://") {
        return Ok(None);
    }
    let insecure = otel(env, "INSECURE")
        .map(|Setting { value, origin }| Setting { value: value.to_ascii_lowercase(), origin });
    let words = [("true", true), ("false", false)];
    let insecure = check.one_of(&insecure, "export.otlp", &words)?.unwrap_or(false);
    let scheme = if insecure { "http" } else { "https" };
    Ok(url(&format!("{scheme}://{endpoint}")))
}

fn client(
    check: Check<'_>,
    file: &ExportFile,
    env: &[(String, String)],
) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    let certificate = file.client_certificate.clone().or_else(|| otel(env, "CLIENT_CERTIFICATE"));
    let key = file.client_key.clone().or_else(|| otel(env, "CLIENT_KEY"));
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate.value.into(), key.value.into()))),
        (None, None) => Ok(None),
        (Some(only), None) | (None, Some(only)) => Err(check.conflict(
            Some(&only.origin),
            "export.clientCertificate and export.clientKey go together: set both, or none",
        )),
    }
}

fn sampling(check: Check<'_>, file: &SamplingFile) -> Result<Option<Sampling>, ConfigError> {
    let accepted = "a number from 0 to 1, such as 0.05";
    let share = check.optional(&file.share, "export.sampling.share", accepted, |text| {
        text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share))
    })?;
    let slow = check.duration(&file.slow, "export.sampling.slow", (0, 24 * 3600))?;
    let wait = check.duration(&file.wait, "export.sampling.wait", (0, 600))?;
    let (slow, wait) = (slow.unwrap_or(SLOW), wait.unwrap_or(WAIT));
    let share = share.filter(|share| *share < 1.0);
    Ok(share.map(|share| Sampling { share, slow, wait }))
}

fn variable(env: &[(String, String)], name: &str) -> Option<Setting> {
    let (_, value) = env.iter().find(|(n, value)| n == name && !value.is_empty())?;
    Some(Setting { value: value.clone(), origin: Origin::Variable(name.to_owned()) })
}

/// The variable for traces wins over the one for every signal.
fn otel(env: &[(String, String)], suffix: &str) -> Option<Setting> {
    variable(env, &format!("OTEL_EXPORTER_OTLP_TRACES_{suffix}"))
        .or_else(|| variable(env, &format!("OTEL_EXPORTER_OTLP_{suffix}")))
}

fn url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (known && uri.host().is_some_and(|h| !h.is_empty())).then_some(uri)
}

/// The path that the specification appends to an endpoint which is not for traces alone.
fn with_path(base: Uri) -> Uri {
    let text = base.to_string();
    let whole = format!("{}/v1/traces", text.trim_end_matches('/'));
    whole.parse().unwrap_or(base)
}

fn timeout(
    check: Check<'_>,
    file: &ExportFile,
    env: &[(String, String)],
) -> Result<Duration, ConfigError> {
    if let Some(set) = check.duration(&file.timeout, "export.timeout", (1, 600))? {
        return Ok(set);
    }
    let milliseconds = check.optional(
        &otel(env, "TIMEOUT"),
        "export.timeout",
        "a number of milliseconds from 1 to 600000",
        |t| t.parse().ok().filter(|ms| (1..=600_000).contains(ms)),
    )?;
    Ok(milliseconds.map_or(TIMEOUT, Duration::from_millis))
}

fn headers(
    check: Check<'_>,
    file: &ExportFile,
    env: &[(String, String)],
) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
    let mut headers = Vec::new();
    if !file.headers.is_empty() {
        for (name, setting) in &file.headers {
            headers.push(header(check, &setting.origin, name, &setting.value)?);
        }
        return Ok(headers);
    }
    let Some(list) = otel(env, "HEADERS") else { return Ok(headers) };
    for pair in list.value.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        headers.push(header(check, &list.origin, name.trim(), &percent_decode(value.trim()))?);
    }
    Ok(headers)
}

fn header(
    check: Check<'_>,
    origin: &Origin,
    name: &str,
    value: &str,
) -> Result<(HeaderName, HeaderValue), ConfigError> {
    let refuse = |what: &str| {
        // The value may be a secret: only the name is shown.
        check.refuse(origin, "export.headers", name, format!("a header whose {what}"))
    };
    let header_name: HeaderName =
        name.to_ascii_lowercase().parse().map_err(|_| refuse("name is an HTTP token"))?;
    let mut header_value: HeaderValue =
        value.parse().map_err(|_| refuse("value is visible ASCII"))?;
    header_value.set_sensitive(true);
    Ok((header_name, header_value))
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, code.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
