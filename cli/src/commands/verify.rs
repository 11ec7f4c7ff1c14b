//! `picket audit verify`

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use picket_certs::files;
use picket_ledger::note::Verifier;
use picket_ledger::{Hash, SignedCheckpoint, hex, proof, tree};
use serde::{Deserialize, Serialize};

use super::ledger::bundle_path;
use crate::args::{ControlArguments, Format, VerifyArguments};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::verify::{Code, Finding, Known, Report, Trust, Verification};

pub(crate) async fn run(
    arguments: VerifyArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let mut trust = trust(&arguments)?;
    let report = match &arguments.offline {
        Some(bundle) => offline(bundle, trust)?,
        None => {
            let state = State::at(&control.control);
            let pinned = state.as_ref().and_then(State::load);
            if let Some(pinned) = pinned {
                let key = Verifier::parse(&pinned.key).ok();
                trust.key = trust.key.or(key);
                trust.authorities = trust.authorities.or(Some(pinned.authorities));
                let by = format!("this command, at {}", pinned.verified_at);
                trust.known.push(Known { by, note: pinned.checkpoint });
            }
            let (report, authorities) = online(&arguments, control, trust).await?;
            if let (Some(state), true) = (state, report.findings.is_empty()) {
                state.save(&report, authorities)?;
            }
            report
        }
    };
    match arguments.output.format {
        Format::Json => output::json(&report)?,
        Format::Table => print(&report)?,
    }
    Ok(if report.findings.is_empty() { Exit::Fine } else { Exit::Problems })
}

fn trust(arguments: &VerifyArguments) -> Result<Trust, Failure> {
    let read = |path: &Path| {
        let text = fs::read_to_string(path);
        text.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
    };
    let key = arguments.log_key.as_ref().map(|key| Verifier::parse(key)).transpose();
    let mut known = Vec::new();
    for path in &arguments.known {
        known.push(Known { by: path.display().to_string(), note: read(path)? });
    }
    Ok(Trust {
        key: key.map_err(|error| Failure::Usage(format!("--log-key: {error}")))?,
        authorities: arguments.authorities.as_deref().map(read).transpose()?,
        known,
        is_whole: arguments.since.is_none() && arguments.offline.is_none(),
    })
}

fn offline(bundle: &Path, trust: Trust) -> Result<Report, Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", bundle.display()));
    let mut verification = Verification::new(trust);
    for line in BufReader::new(fs::File::open(bundle).map_err(failed)?).lines() {
        verification.line(&line.map_err(failed)?)?;
    }
    verification.finish()
}

async fn online(
    arguments: &VerifyArguments,
    control: &ControlArguments,
    trust: Trust,
) -> Result<(Report, String), Failure> {
    let client = Client::new(control)?;
    let mut lines = client.lines(&bundle_path(arguments.since.as_deref())?).await?;
    let mut verification = Verification::new(trust);
    let mut authorities = None;
    while let Some(line) = lines.next().await? {
        if authorities.is_none() {
            let start: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            authorities = start.get("authorities").and_then(|a| a.as_str()).map(str::to_owned);
        }
        verification.line(&line)?;
    }
    let mut report = verification.finish()?;
    // Of what was seen before the first record of this bundle the proof is asked for.
    let root: Hash = hex::decode(&report.root).unwrap_or_default();
    for (size, seen, by) in std::mem::take(&mut report.uncompared) {
        let path = format!("/api/v1/log/consistency?old={size}&new={}", report.size);
        let hashes: Vec<String> = client.get(&path).await?;
        let path: Option<Vec<Hash>> = hashes.iter().map(|hash| hex::decode(hash)).collect();
        let is_shown = path
            .is_some_and(|path| proof::verify_consistency(size, report.size, &seen, &root, &path));
        if !is_shown {
            let detail = format!("its first {size} entries are not those that {by} has seen");
            report.add(Finding::new(Code::ForkedLog, detail));
        }
    }
    report.settle();
    Ok((report, authorities.unwrap_or_default()))
}

/// What was verified last, so that a log which forgets it is found out.
struct State(PathBuf);

#[derive(Serialize, Deserialize)]
struct Verified {
    key: String,
    authorities: String,
    checkpoint: String,
    verified_at: String,
}

impl State {
    /// That of the control plane at an address; none if there is no home to keep it in.
    fn at(address: &str) -> Option<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
        let name = hex::encode(&tree::sha256(address.as_bytes()));
        let name = name.get(..16).unwrap_or_default();
        Some(Self(home.join("picket").join(format!("verified-{name}.json"))))
    }

    fn load(&self) -> Option<Verified> {
        let bytes = fs::read(&self.0).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| eprintln!("{} is not read: {error}", self.0.display()))
            .ok()
    }

    fn save(&self, report: &Report, authorities: String) -> Result<(), Failure> {
        let Ok(signed) = SignedCheckpoint::parse(&report.checkpoint) else { return Ok(()) };
        if signed.checkpoint.size == 0 {
            return Ok(());
        }
        let verified = Verified {
            key: report.key.clone(),
            authorities,
            checkpoint: report.checkpoint.clone(),
            verified_at: report.made_at.clone(),
        };
        let failed = |error: &(dyn std::error::Error + 'static)| Failure::of(error);
        if let Some(directory) = self.0.parent() {
            fs::create_dir_all(directory).map_err(|error| failed(&error))?;
        }
        let text = serde_json::to_vec_pretty(&verified).map_err(|error| failed(&error))?;
        files::write_atomic(&self.0, files::PRIVATE, &text).map_err(|error| failed(&error))
    }
}

fn print(report: &Report) -> Result<(), Failure> {
    let Report { records, size, first, lanes, heads, checkpoints, .. } = report;
    let from = if *first == 0 { String::new() } else { format!(" from index {first} on") };
    output::line(&format!(
        "{records} records in a log of {size} entries{from}, {lanes} lanes, {heads} signed heads, {checkpoints} checkpoints"
    ))?;
    for (count, what) in [
        (report.erased, "were erased; their entries are good"),
        (report.removed, "were removed by retention"),
        (report.pending, "are on their way"),
        (report.declared_lost, "are declared lost by their emitters"),
    ] {
        if count > 0 {
            output::line(&format!("{count} {what}"))?;
        }
    }
    output::line(&format!("log     {}", report.key))?;
    output::line(&format!("root    {}", report.root))?;
    for witness in &report.witnesses {
        let cosigned = match (&witness.refusal, witness.cosigned) {
            (Some(_), _) => "refuses the log".to_owned(),
            (None, true) => format!("cosigned {} entries", witness.size),
            (None, false) => "has cosigned nothing yet".to_owned(),
        };
        output::line(&format!("witness {}: {cosigned}", witness.spiffe_id))?;
    }
    for finding in &report.findings {
        output::line(&format!("× {finding}"))?;
    }
    output::line(&match report.findings.len() {
        0 => "√ complete, in order, and as it was signed".to_owned(),
        count => format!("× {}", output::counted(count, "finding")),
    })
}
