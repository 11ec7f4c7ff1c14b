//! `picket audit`

mod csv;
mod groups;
mod ocsf;
mod print;

use picket_api::attributes as names;
use picket_control::operator::{AuditQuery, HashSubject, SubjectHashes};

use super::{ledger, verify};
use crate::args::{
    AuditCommand, ControlArguments, Format, SearchArguments, SearchFormat, SubjectHashArguments,
};
use crate::client::Client;
use crate::commands::asked_to_end;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::recorded::{Following, Trail, latest, time};
use print::{Printer, dash};

pub(crate) use print::{plain, who, why};

pub(crate) async fn run(
    command: AuditCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let arguments = match command {
        AuditCommand::Search(arguments) => arguments,
        AuditCommand::SubjectHash(arguments) => return subject_hash(arguments, control).await,
        AuditCommand::Accounts(arguments) => return ledger::accounts(arguments, control).await,
        AuditCommand::Verify(arguments) => return verify::run(arguments, control).await,
        AuditCommand::Bundle(arguments) => return ledger::bundle(arguments, control).await,
        AuditCommand::Prove(arguments) => return ledger::prove(arguments, control).await,
        AuditCommand::Erase(arguments) => return ledger::erase(arguments, control).await,
    };
    let client = Client::new(control)?;
    let mut query = query(&arguments)?;
    if let Some(subject) = &arguments.subject {
        query.q = Some(of_subject(&client, subject, query.q).await?);
    }
    if let Some(by) = &arguments.group_by {
        return groups::run(&client, query, by, &arguments).await;
    }
    if arguments.follow {
        return follow(&client, query, &arguments).await;
    }
    let mut printer = Printer::new(arguments.output);
    match arguments.limit {
        Some(limit) => printer.page(&latest(&client, &query, limit).await?.records)?,
        None => {
            let mut trail = Trail::new(&client, query);
            while let Some(page) = trail.next().await? {
                printer.page(&page.records)?;
            }
        }
    }
    printer.end()?;
    Ok(Exit::Fine)
}

async fn follow(
    client: &Client,
    query: AuditQuery,
    arguments: &SearchArguments,
) -> Result<Exit, Failure> {
    if arguments.output == SearchFormat::Json {
        let words = "one JSON document has no end with --follow: use --output jsonl";
        return Err(Failure::Usage(words.to_owned()));
    }
    let mut printer = Printer::new(arguments.output);
    let print = async {
        let mut following = match arguments.limit {
            Some(limit) => {
                let page = latest(client, &query, limit).await?;
                printer.page(&page.records)?;
                Following::after(client, query, page.next)
            }
            None => Following::new(client, query),
        };
        loop {
            printer.page(&following.next().await?)?;
        }
    };
    tokio::select! {
        ended = print => ended,
        () = asked_to_end() => Ok(Exit::Fine),
    }
}

/// Keys whose hashes are looked for: a filter has an end.
const MAX_KEYS: usize = 200;

/// A filter that holds for the requests of a subject, and beside it what another one says. The name itself is in no
/// filter: those are recorded.
async fn of_subject(
    client: &Client,
    subject: &str,
    filter: Option<String>,
) -> Result<String, Failure> {
    let hashes = hashes(client, subject.to_owned()).await?.hashes;
    let listed: Vec<&str> = hashes.iter().take(MAX_KEYS).map(|hash| hash.hash.as_str()).collect();
    let of_subject =
        format!("kind = request and {} in ({})", names::JWT_SUBJECT_HASH, listed.join(", "));
    Ok(filter.map_or(of_subject.clone(), |filter| format!("{of_subject} and ({filter})")))
}

async fn hashes(client: &Client, subject: String) -> Result<SubjectHashes, Failure> {
    Ok(client.post("/api/v1/subject-hashes", &HashSubject { subject }).await?)
}

async fn subject_hash(
    arguments: SubjectHashArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let SubjectHashArguments { subject, output } = arguments;
    let client = Client::new(control)?;
    let found = hashes(&client, subject).await?;
    if output.format == Format::Json {
        output::json(&found)?;
        return Ok(Exit::Fine);
    }
    let rows: Vec<Vec<String>> = found
        .hashes
        .into_iter()
        .map(|hash| vec![hash.key, hash.since, dash(&hash.until.unwrap_or_default()), hash.hash])
        .collect();
    output::table(&["KEY", "SINCE", "UNTIL", "HASH"], &rows)?;
    Ok(Exit::Fine)
}

fn query(arguments: &SearchArguments) -> Result<AuditQuery, Failure> {
    Ok(AuditQuery {
        q: arguments.filter.clone(),
        since: time(arguments.since.as_deref(), "--since")?,
        until: time(arguments.until.as_deref(), "--until")?,
        id: arguments.id.clone(),
        trace: arguments.trace.clone(),
        decision_id: arguments.decision_id.clone(),
        source: arguments.source.clone(),
        destination: arguments.destination.clone(),
        emitter: arguments.emitter.clone(),
        method: arguments.method.clone(),
        path: arguments.path.clone(),
        status: arguments.status.clone(),
        decision: arguments.decision.clone(),
        policy: arguments.policy.clone(),
        reason: arguments.reason.clone(),
        kind: arguments.kind.clone(),
        event: arguments.event.clone(),
        direction: arguments.direction.clone(),
        ..AuditQuery::default()
    })
}
