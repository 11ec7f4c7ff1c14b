//! `picket status`

use picket_control::operator::{ProxyState, ProxyStatus, Status};

use crate::args::{ControlArguments, Format, StatusCommand};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{self, Colour, coloured, duration, seconds_until};

pub(crate) async fn run(
    command: &StatusCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let status: Status = Client::new(control)?.get("/api/v1/status").await?;
    match command.output.format {
        Format::Json => output::json(&status)?,
        Format::Table => print(&status)?,
    }
    Ok(Exit::Fine)
}

fn print(status: &Status) -> Result<(), Failure> {
    let control = &status.control;
    let policy = &control.policy;
    let generation = policy.generation.as_deref().unwrap_or("none");
    output::line(&format!(
        "control plane  {} {}  trust domain {}  audit records {}",
        control.spiffe_id, control.version, control.trust_domain, control.audit_records
    ))?;
    output::line(&format!(
        "policies       generation {generation}, {} files in {}",
        policy.files.len(),
        policy.directory.display()
    ))?;
    let revoked = &control.revocations;
    if revoked.revision > 0 {
        output::line(&format!(
            "revocations    revision {}, {} in force",
            revoked.revision, revoked.entries
        ))?;
    }
    if policy.refused {
        let refused = coloured("refused", Colour::Red);
        output::line(&format!(
            "               {refused}: what the directory holds now; the last good set stays"
        ))?;
    }
    for diagnostic in &policy.diagnostics {
        output::line(&format!("               {diagnostic}"))?;
    }
    output::line("")?;
    let rows: Vec<Vec<String>> = status.proxies.iter().map(row).collect();
    let head = [
        "WORKLOAD",
        "STATE",
        "GENERATION",
        "REVOCATIONS",
        "CERTIFICATE",
        "LAST CONTACT",
        "AUDIT PENDING",
        "VERSION",
    ];
    output::table(&head, &rows)?;
    for proxy in &status.proxies {
        if let Some(refusal) = &proxy.refusal {
            output::line(&format!("{} refused: {refusal}", proxy.workload))?;
        }
        if let Some(error) = &proxy.renewal_error {
            output::line(&format!("{} cannot renew: {error}", proxy.workload))?;
        }
    }
    Ok(())
}

fn row(proxy: &ProxyStatus) -> Vec<String> {
    let state = match proxy.state {
        ProxyState::Synced => "synced",
        ProxyState::Stale => "stale",
        ProxyState::Refused => "refused",
        ProxyState::Revoked => "revoked",
        ProxyState::Silent => "silent",
        ProxyState::Gone => "gone",
    };
    let left = proxy.certificate.as_ref().and_then(|c| seconds_until(&c.not_after));
    let certificate = match left {
        None => "-".to_owned(),
        Some(left) if left < 0 => "expired".to_owned(),
        Some(left) => format!("{} left", duration(left)),
    };
    let contact = seconds_until(&proxy.last_contact);
    vec![
        proxy.workload.clone(),
        state.to_owned(),
        if proxy.generation.is_empty() { "-".to_owned() } else { proxy.generation.clone() },
        proxy.revocations.to_string(),
        certificate,
        contact.map_or_else(|| "-".to_owned(), |seconds| format!("{} ago", duration(-seconds))),
        proxy.audit.map_or_else(|| "-".to_owned(), |audit| audit.pending.to_string()),
        proxy.version.clone(),
    ]
}
