//! `picket policy diff`: what changes from one directory of policies to another. How it is found out stands in
//! [`picket_policy::diff`].

use std::path::Path;

use picket_policy::Verdict;
use picket_policy::diff::{Change, DecisionChange, Difference, FieldChange, ObjectChange};
use picket_policy::explain::Request;

use crate::args::{DiffCommand, Format};
use crate::exit::{Exit, Failure};
use crate::output::{self, counted};

pub(super) fn run(command: &DiffCommand) -> Result<Exit, Failure> {
    let load = |directory: &Path| {
        if !directory.is_dir() {
            let words = format!("{}: there is no such directory", directory.display());
            return Err(Failure::Usage(words));
        }
        super::load(directory, &command.mesh)
    };
    let (before, after) = (load(&command.before)?, load(&command.after)?);
    let mut difference = Difference::of(&before, &after);
    for change in &mut difference.decisions {
        change.before.place_in(&command.before.display().to_string());
        change.after.place_in(&command.after.display().to_string());
    }
    match command.output.format {
        Format::Json => output::json(&difference)?,
        Format::Table => print(&difference)?,
    }
    Ok(if difference.is_empty() { Exit::Fine } else { Exit::Problems })
}

fn print(difference: &Difference) -> Result<(), Failure> {
    for object in &difference.objects {
        output::line(&object_words(object))?;
    }
    for decision in &difference.decisions {
        output::line(&decision_words(decision))?;
    }
    let count = |now| {
        let changes = difference.decisions.iter().filter(|change| change.now == now);
        changes.map(|change| change.count).sum::<usize>()
    };
    let of = match difference.possible {
        all if all > difference.sampled => format!(" of {all}"),
        _ => String::new(),
    };
    eprintln!(
        "{} changed; of {}{of} that the policies suggest {} newly allowed, {} newly denied",
        counted(difference.objects.len(), "object"),
        counted(difference.sampled, "request"),
        count(Verdict::Allow),
        count(Verdict::Deny),
    );
    Ok(())
}

fn object_words(object: &ObjectChange) -> String {
    let ObjectChange { kind, name, before, after, .. } = object;
    let place = |place: &Option<String>| place.clone().unwrap_or_default();
    let mut words = match object.change {
        Change::Added => format!("+ {kind} {name}   {}", place(after)),
        Change::Removed => format!("- {kind} {name}   {}", place(before)),
        Change::Changed => format!("~ {kind} {name}   {}", place(after)),
    };
    for FieldChange { field, before, after } in &object.fields {
        let value = |value: &Option<serde_json::Value>| match value {
            Some(value) => value.to_string(),
            None => "nothing".to_owned(),
        };
        words.push_str(&format!("\n    {field}: {} → {}", value(before), value(after)));
    }
    words
}

fn decision_words(change: &DecisionChange) -> String {
    let what = match change.now {
        Verdict::Allow => "newly allowed",
        Verdict::Deny => "newly denied",
    };
    let more = match change.count {
        1 => String::new(),
        count => format!("   (and {} like it)", counted(count - 1, "request")),
    };
    format!(
        "{what}: {}{more}\n    before: {}\n    after:  {}",
        request_words(&change.example),
        change.before.reason,
        change.after.reason,
    )
}

/// A request in one line: who, to whom, what, and under which conditions.
fn request_words(request: &Request) -> String {
    let from = request.from.as_deref().unwrap_or("(no identity)");
    let from = from.strip_prefix("spiffe://").unwrap_or(from);
    let mut words = format!("{from} → {}", request.destination);
    match (&request.method, &request.path) {
        (Some(method), Some(path)) => words.push_str(&format!("  {method} {path}")),
        _ => words.push_str("  raw TCP"),
    }
    let mut part = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.push_str(&format!("  {name} {value}"));
        }
    };
    part("host", request.host.clone());
    part("port", request.port.map(|port| port.to_string()));
    part("from", request.source_ip.map(|address| address.to_string()));
    part("for", request.remote_ip.map(|address| address.to_string()));
    part("sni", request.sni.clone());
    let json = |value: serde_json::Result<String>| value.ok();
    part("claims", request.claims.as_ref().and_then(|claims| json(serde_json::to_string(claims))));
    if !request.headers.is_empty() {
        part("headers", json(serde_json::to_string(&request.headers)));
    }
    words
}
