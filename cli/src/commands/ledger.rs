//! `picket audit accounts`, `bundle`, `prove`, `erase`

use std::collections::BTreeMap;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_control::operator::{
    AccountMinute, Accounts, AccountsQuery, Erase, Erased, RecordProof,
};
use picket_ledger::note::Verifier;
use picket_ledger::{Entry, SignedCheckpoint, entry, hex, proof, tree};

use crate::args::{
    AccountsArguments, BundleArguments, ControlArguments, EraseArguments, Format, ProveArguments,
};
use crate::client::Client;
use crate::exit::{Exit, Failure, words};
use crate::output;
use crate::recorded::{percent, short, time, to_query};

pub(crate) async fn accounts(
    arguments: AccountsArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let query = AccountsQuery {
        since: time(Some(&arguments.since), "--since")?,
        until: time(arguments.until.as_deref(), "--until")?,
        emitter: arguments.emitter,
    };
    let path = format!("/api/v1/audit/accounts?{}", to_query(&query)?);
    let accounts: Accounts = Client::new(control)?.get(&path).await?;
    match arguments.output.format {
        Format::Json => output::json(&accounts)?,
        Format::Table => print(&accounts)?,
    }
    let is_whole = accounts.emitters.iter().all(|emitter| emitter.total.missing == 0);
    Ok(if is_whole { Exit::Fine } else { Exit::Problems })
}

fn print(accounts: &Accounts) -> Result<(), Failure> {
    let row = |emitter: &str, minute: &str, account: &AccountMinute| {
        let lost: Vec<String> =
            account.lost.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        vec![
            emitter.to_owned(),
            minute.get(..16).unwrap_or(minute).replace('T', " "),
            account.emitted.to_string(),
            account.stored.to_string(),
            account.open.to_string(),
            account.pending.to_string(),
            if lost.is_empty() { "0".to_owned() } else { lost.join(", ") },
            account.missing.to_string(),
        ]
    };
    let mut rows = Vec::new();
    for emitter in &accounts.emitters {
        let name = short(Some(&emitter.emitter));
        rows.extend(emitter.minutes.iter().map(|account| row(&name, &account.minute, account)));
        rows.push(row(&name, "all", &emitter.total));
    }
    let head = ["EMITTER", "MINUTE", "EMITTED", "STORED", "OPEN", "PENDING", "LOST", "MISSING"];
    output::table(&head, &rows)?;
    for missing in &accounts.missing {
        let (emitter, boot, lane) = (short(Some(&missing.emitter)), &missing.boot, missing.lane);
        let (first, last, since) = (missing.first, missing.last, &missing.since);
        eprintln!(
            "missing: {emitter} boot {boot} lane {lane} positions {first} to {last}, since {since}"
        );
    }
    let totals = accounts.emitters.iter().fold(BTreeMap::new(), |mut sums, emitter| {
        *sums.entry("emitted").or_insert(0) += emitter.total.emitted;
        *sums.entry("stored").or_insert(0) += emitter.total.stored;
        *sums.entry("missing").or_insert(0) += emitter.total.missing;
        sums
    });
    let total = |name| totals.get(name).copied().unwrap_or(0);
    eprintln!(
        "{} emitted, {} stored, {} missing",
        total("emitted"),
        total("stored"),
        total("missing")
    );
    Ok(())
}

/// The path of a bundle.
pub(super) fn bundle_path(since: Option<&str>) -> Result<String, Failure> {
    Ok(match time(since, "--since")? {
        Some(since) => format!("/api/v1/audit/bundle?since={}", percent(&since)),
        None => "/api/v1/audit/bundle".to_owned(),
    })
}

pub(crate) async fn bundle(
    arguments: BundleArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let path = bundle_path(arguments.since.as_deref())?;
    let mut lines = Client::new(control)?.lines(&path).await?;
    let failed =
        |error: std::io::Error| Failure::Failed(format!("{}: {error}", arguments.out.display()));
    let mut file = std::io::BufWriter::new(std::fs::File::create(&arguments.out).map_err(failed)?);
    let mut count = 0;
    while let Some(line) = lines.next().await? {
        writeln!(file, "{line}").map_err(failed)?;
        count += 1;
    }
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    eprintln!(
        "{}: {count} lines; check it with `picket audit verify --offline`",
        arguments.out.display()
    );
    Ok(Exit::Fine)
}

pub(crate) async fn prove(
    arguments: ProveArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let path = format!("/api/v1/audit/proof?id={}", percent(&arguments.id));
    let given: RecordProof = Client::new(control)?.get(&path).await?;
    // What cannot be shown is not handed on.
    let checked = check(&given).map_err(|error| {
        Failure::Problems(format!(
            "the control plane's proof of {} does not hold: {error}",
            given.id
        ))
    })?;
    if arguments.output.format == Format::Json {
        output::json(&given)?;
        return Ok(Exit::Fine);
    }
    output::line(&format!("record      {}", given.id))?;
    output::line(&format!("entry       {} of {}", given.index, given.size))?;
    output::line(&format!("leaf        {}", hex::encode(&checked.leaf)))?;
    output::line(&format!("root        {}", hex::encode(&checked.root)))?;
    output::line(&format!("log         {}", given.key))?;
    for witness in &checked.witnesses {
        output::line(&format!("cosigned by {witness}"))?;
    }
    match given.span {
        Some(_) => {
            output::line("the record is what was entered, and the entry is in the signed log")
        }
        None => output::line("the record was erased; its entry is in the signed log"),
    }?;
    Ok(Exit::Fine)
}

struct Checked {
    leaf: tree::Hash,
    root: tree::Hash,
    /// Those that cosigned the checkpoint.
    witnesses: Vec<String>,
}

fn check(given: &RecordProof) -> Result<Checked, String> {
    let key = Verifier::parse(&given.key).map_err(|error| words(&error))?;
    let signed = SignedCheckpoint::parse(&given.checkpoint).map_err(|error| words(&error))?;
    signed.check(&key).map_err(|error| words(&error))?;
    let entry = Entry::parse(&given.entry).ok_or("the entry is none")?;
    if entry.id() != given.id || signed.checkpoint.size != given.size {
        return Err("it is the proof of something else".to_owned());
    }
    let decode = |text: &Option<String>| text.as_ref().map(|text| STANDARD.decode(text));
    if let (Some(salt), Some(resource), Some(span)) =
        (decode(&given.salt), decode(&given.resource), decode(&given.span))
    {
        let undecodable = |_| "salt, resource or span are not base64".to_owned();
        let (salt, resource, span) = (
            salt.map_err(undecodable)?,
            resource.map_err(undecodable)?,
            span.map_err(undecodable)?,
        );
        if entry::commitment(&salt, &resource, &span) != entry.commitment {
            return Err("the record is not what was entered".to_owned());
        }
    }
    let path: Option<Vec<tree::Hash>> = given.path.iter().map(|hash| hex::decode(hash)).collect();
    let path = path.ok_or("the path is not of hashes")?;
    let (leaf, root) = (entry.leaf(), signed.checkpoint.root);
    if !proof::verify_inclusion(given.index, given.size, &leaf, &path, &root) {
        return Err("the entry is not in the signed tree".to_owned());
    }
    let witnesses = given.witnesses.iter().filter_map(|key| Verifier::parse(key).ok());
    let witnesses = witnesses.filter(|key| signed.cosigned_at(key).is_some());
    let witnesses = witnesses.map(|key| key.to_string()).collect();
    Ok(Checked { leaf, root, witnesses })
}

pub(crate) async fn erase(
    arguments: EraseArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let request = Erase { ids: arguments.ids, reason: arguments.reason };
    let done: Erased = Client::new(control)?.post("/api/v1/audit/erase", &request).await?;
    if arguments.output.format == Format::Json {
        output::json(&done)?;
    } else {
        done.erased.iter().try_for_each(|id| output::line(&format!("erased {id}")))?;
    }
    for id in &done.unknown {
        eprintln!("{id} is not here, or was erased before");
    }
    Ok(if done.unknown.is_empty() { Exit::Fine } else { Exit::Problems })
}
