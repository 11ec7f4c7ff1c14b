//! `picket token` and `picket certificate`: what is revoked, and since when every proxy knows.

use std::time::{Duration, Instant};

use picket_control::operator::{
    ProxyState, ProxyStatus, Revocation, Revocations, Revoke, Revoked, Status,
};
use picket_settings::duration;
use serde::Serialize;

use crate::args::{
    CertificateCommand, ControlArguments, Format, RevokeArguments, TokenCommand, UnrevokeArguments,
    WaitArguments,
};
use crate::client::Client;
use crate::commands::plain_id;
use crate::exit::{Exit, Failure};
use crate::output;

const PATH: &str = "/api/v1/revocations";
/// Pause between two looks at the proxies.
const LOOK: Duration = Duration::from_millis(20);

/// `picket token`
pub(crate) async fn tokens(
    command: TokenCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Revoke { jti, sub, kid, issuer, also_later, length, common } => {
            let named = [("jti", jti), ("sub", sub), ("kid", kid)];
            let named = named.into_iter().find_map(|(kind, value)| Some((kind, value?)));
            let (kind, value, issuer) = match (named, issuer) {
                (Some((kind, value)), issuer) => (kind, value, issuer),
                (None, issuer) => ("issuer", issuer.unwrap_or_default(), None),
            };
            let kind = kind.to_owned();
            let revoke = Revoke { kind, value, issuer, also_later, r#for: length, reason: None };
            self::revoke(revoke, common, control).await
        }
        TokenCommand::Revocations { output } => list(true, output.format, control).await,
        TokenCommand::Unrevoke(arguments) => lift(arguments, control).await,
    }
}

/// `picket certificate`
pub(crate) async fn certificates(
    command: CertificateCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    match command {
        CertificateCommand::Revoke { identity, serial, length, common } => {
            let (kind, value) = match (identity, serial) {
                (Some(identity), _) => ("identity", identity),
                (None, serial) => ("serial", serial.unwrap_or_default()),
            };
            let kind = kind.to_owned();
            let revoke = Revoke { kind, value, r#for: length, ..Revoke::default() };
            self::revoke(revoke, common, control).await
        }
        CertificateCommand::Revocations { output } => list(false, output.format, control).await,
        CertificateCommand::Unrevoke(arguments) => lift(arguments, control).await,
    }
}

/// What was done, and who enforces it.
#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    revoked: Revoked,
    /// With `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxies: Option<Vec<Receipt>>,
}

/// Whether one proxy enforces it, and how long after the change that was seen.
#[derive(Serialize)]
struct Receipt {
    workload: String,
    boot: String,
    revocations: u64,
    enforced: bool,
    after_ms: Option<u64>,
}

async fn revoke(
    mut revoke: Revoke,
    common: RevokeArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    revoke.reason = common.reason;
    let patience = patience(&common.wait)?;
    let client = Client::new(control)?;
    let started = Instant::now();
    let revoked: Revoked = client.post(PATH, &revoke).await?;
    if common.output.format == Format::Table {
        advise(&revoked);
    }
    finish(&client, revoked, "revoked", (started, patience), common.output.format).await
}

/// What an operator may have meant and did not get.
fn advise(revoked: &Revoked) {
    if !revoked.is_known {
        eprintln!(
            "no certificate with the serial number {} was issued here: is it written right?",
            revoked.revocation.value
        );
    }
    if let Some(successor) = &revoked.successor {
        eprintln!(
            "it was renewed: {successor} has replaced it and is not revoked; to reach every \
             certificate of the workload, revoke its --identity"
        );
    }
}

async fn lift(arguments: UnrevokeArguments, control: &ControlArguments) -> Result<Exit, Failure> {
    let UnrevokeArguments { id, wait, output } = arguments;
    let id = plain_id(&id, "a revocation")?;
    let patience = patience(&wait)?;
    let client = Client::new(control)?;
    let started = Instant::now();
    let revoked: Revoked = client.delete(&format!("{PATH}/{id}")).await?;
    finish(&client, revoked, "lifted", (started, patience), output.format).await
}

fn patience(wait: &WaitArguments) -> Result<Option<Duration>, Failure> {
    if !wait.wait {
        return Ok(None);
    }
    let patience = duration::parse(&wait.timeout).filter(|d| !d.is_zero());
    let mistake = format!("--timeout {:?} is not a duration, such as 10s", wait.timeout);
    patience.map(Some).ok_or(Failure::Usage(mistake))
}

async fn finish(
    client: &Client,
    revoked: Revoked,
    done: &str,
    (started, patience): (Instant, Option<Duration>),
    format: Format,
) -> Result<Exit, Failure> {
    let proxies = match patience {
        Some(patience) => Some(receipts(client, revoked.revision, started, patience).await?),
        None => None,
    };
    let missing = proxies.iter().flatten().filter(|receipt| !receipt.enforced).count();
    if format == Format::Json {
        output::json(&Done { revoked, proxies })?;
    } else {
        let until = match &revoked.revocation.until {
            Some(until) if done == "revoked" => format!(", until {until}"),
            _ => String::new(),
        };
        eprintln!("{done}: {}{until}; revision {}", words(&revoked.revocation), revoked.revision);
        output::line(&revoked.revocation.id)?;
        if let Some(proxies) = proxies {
            print(&proxies)?;
        }
    }
    Ok(if missing == 0 { Exit::Fine } else { Exit::Problems })
}

fn print(proxies: &[Receipt]) -> Result<(), Failure> {
    let rows = proxies.iter().map(|receipt| {
        let after = receipt.after_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let enforced = if receipt.enforced { "yes" } else { "no" };
        vec![receipt.workload.clone(), enforced.to_owned(), after]
    });
    output::table(&["WORKLOAD", "ENFORCED", "AFTER"], &rows.collect::<Vec<_>>())
}

/// Asks until every proxy that is there enforces a revision, or time is up.
async fn receipts(
    client: &Client,
    revision: u64,
    started: Instant,
    patience: Duration,
) -> Result<Vec<Receipt>, Failure> {
    let mut seen: Vec<(String, u64)> = Vec::new();
    loop {
        let status: Status = client.get("/api/v1/status").await?;
        // A silent one may be serving all the same.
        let there =
            |proxy: &&ProxyStatus| !matches!(proxy.state, ProxyState::Gone | ProxyState::Revoked);
        let after = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let receipts: Vec<Receipt> = status
            .proxies
            .iter()
            .filter(there)
            .map(|proxy| {
                let enforced = proxy.revocations >= revision;
                let known = seen.iter().find(|(boot, _)| *boot == proxy.boot).map(|(_, ms)| *ms);
                if enforced && known.is_none() {
                    seen.push((proxy.boot.clone(), after));
                }
                Receipt {
                    workload: proxy.workload.clone(),
                    boot: proxy.boot.clone(),
                    revocations: proxy.revocations,
                    enforced,
                    after_ms: enforced.then(|| known.unwrap_or(after)),
                }
            })
            .collect();
        if receipts.iter().all(|receipt| receipt.enforced) || started.elapsed() >= patience {
            return Ok(receipts);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn list(tokens: bool, format: Format, control: &ControlArguments) -> Result<Exit, Failure> {
    let mut found: Revocations = Client::new(control)?.get(PATH).await?;
    let is_of_tokens = |r: &Revocation| !matches!(r.kind.as_str(), "identity" | "serial");
    found.revocations.retain(|revocation| is_of_tokens(revocation) == tokens);
    if format == Format::Json {
        output::json(&found)?;
        return Ok(Exit::Fine);
    }
    let rows = found.revocations.into_iter().map(|r| {
        let what = words(&r);
        let until = r.until.unwrap_or_else(|| "lifted".to_owned());
        let reason = r.reason.unwrap_or_else(|| "-".to_owned());
        vec![r.id, what, until, r.revoked_by, reason]
    });
    output::table(&["ID", "REVOKED", "UNTIL", "BY", "REASON"], &rows.collect::<Vec<_>>())?;
    Ok(Exit::Fine)
}

fn words(revocation: &Revocation) -> String {
    let mut words = format!("{} {}", revocation.kind, revocation.value);
    if let Some(issuer) = &revocation.issuer {
        words.push_str(&format!(" of {issuer}"));
    }
    if let Some(at) = &revocation.issued_until {
        words.push_str(&format!(", issued until {at}"));
    }
    words
}
