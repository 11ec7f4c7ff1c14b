//! `picket authz`

mod recorded;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use picket_policy::Verdict;
use picket_policy::explain::{Answer, Assumed, Explainer, OneOrMany, Request};
use picket_policy::jwt::{KeySet, KeysUnavailable, RemoteKeys};

use super::policy;
use crate::args::{AuthzCommand, ControlArguments, CustomArgument, ExplainArguments, Format};
use crate::exit::{Exit, Failure, words};
use crate::output;

pub(crate) async fn run(
    command: AuthzCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let AuthzCommand::Explain(arguments) = command;
    if arguments.trace.is_some() || arguments.decision.is_some() {
        return recorded::run(&arguments, control).await;
    }
    let directory = arguments.policies.clone().unwrap_or_default();
    let set = policy::load(&directory, &arguments.mesh)?;
    let keys = keys(&arguments.jwks)?;
    let provider = |source: &RemoteKeys| {
        let (RemoteKeys::Jwks(url) | RemoteKeys::Discovery(url)) = source;
        keys.get(&**url).cloned().ok_or(KeysUnavailable)
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut explainer = Explainer::new(&set, &provider, now).assuming(assumed(arguments.custom));
    let denied = match &arguments.requests {
        Some(path) => explain_all(&mut explainer, path)?,
        None => explain_one(&mut explainer, &arguments)?,
    };
    Ok(if denied && arguments.exit_code { Exit::Denied } else { Exit::Fine })
}

fn assumed(custom: CustomArgument) -> Assumed {
    match custom {
        CustomArgument::Allow => Assumed::Allow,
        CustomArgument::Deny => Assumed::Deny,
        CustomArgument::Error => Assumed::Error,
    }
}

/// Key sets by the URL, or the issuer, that the rules name.
fn keys(arguments: &[String]) -> Result<HashMap<String, Arc<KeySet>>, Failure> {
    let mut keys = HashMap::new();
    for argument in arguments {
        // A URL may hold `=`, a file name seldom does.
        let (url, file) = argument
            .rsplit_once('=')
            .ok_or_else(|| Failure::Usage(format!("--jwks {argument:?} is not URL=FILE")))?;
        let text = fs::read_to_string(file)
            .map_err(|error| Failure::Usage(format!("--jwks {file}: {error}")))?;
        let set = KeySet::parse(&text)
            .map_err(|error| Failure::Usage(format!("--jwks {file}: {}", words(&error))))?;
        keys.insert(url.to_owned(), Arc::new(set));
    }
    Ok(keys)
}

/// One answer a line, in the order of the requests; says whether one of them is a deny.
fn explain_all(explainer: &mut Explainer<'_>, path: &std::path::Path) -> Result<bool, Failure> {
    let failed = |error: std::io::Error| Failure::Usage(format!("{}: {error}", path.display()));
    let file = fs::File::open(path).map_err(failed)?;
    let mut denied = false;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(failed)?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let answer = explainer.answer_json(&String::from_utf8_lossy(&line));
        denied |= answer.decision == Verdict::Deny;
        print_line(&answer)?;
    }
    Ok(denied)
}

fn print_line(answer: &Answer) -> Result<(), Failure> {
    let text = serde_json::to_string(answer).map_err(|error| Failure::of(&error))?;
    output::line(&text)
}

fn explain_one(
    explainer: &mut Explainer<'_>,
    arguments: &ExplainArguments,
) -> Result<bool, Failure> {
    let request = request(arguments)?;
    let answer = explainer.answer(&request);
    match arguments.output.format {
        Format::Json => output::json(&answer)?,
        Format::Table => {
            output::line(&answer.to_string())?;
            hints(&request, &answer);
        }
    }
    Ok(answer.decision == Verdict::Deny)
}

/// What a reader may have missed, on standard error.
fn hints(request: &Request, answer: &Answer) {
    if request.labels.is_empty() && answer.code.starts_with("default_") {
        eprintln!(
            "hint: no --label was given; policies with a selector do not select this workload"
        );
    }
    if answer.code == "jwt_binding" && request.certificate_sha256.is_none() {
        eprintln!(
            "hint: the token is bound to a certificate; say which one the caller shows with \
             --certificate-sha256"
        );
    }
    if request.from.is_none() && answer.decision == Verdict::Allow && answer.mtls != Some("DISABLE")
    {
        eprintln!(
            "hint: a proxy whose default mTLS mode is STRICT closes a connection without a client \
             certificate before this; try --default-mtls strict"
        );
    }
}

fn request(arguments: &ExplainArguments) -> Result<Request, Failure> {
    let labels = policy::labels(&arguments.label)?;
    let mut headers: BTreeMap<String, OneOrMany> = BTreeMap::new();
    for header in &arguments.header {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| Failure::Usage(format!("--header {header:?} is not 'NAME: VALUE'")))?;
        let name = name.trim().to_ascii_lowercase();
        let value = value.trim().to_owned();
        let values = headers.entry(name).or_insert_with(|| OneOrMany::Many(Vec::new()));
        if let OneOrMany::Many(values) = values {
            values.push(value);
        }
    }
    let claims = match &arguments.claims {
        None => None,
        Some(path) => {
            let usage = |why: String| Failure::Usage(format!("--claims {}: {why}", path.display()));
            let text = fs::read_to_string(path).map_err(|error| usage(error.to_string()))?;
            Some(serde_json::from_str(&text).map_err(|error| usage(error.to_string()))?)
        }
    };
    Ok(Request {
        destination: arguments.destination.clone().unwrap_or_default(),
        labels,
        from: arguments.from.clone(),
        method: arguments.method.clone(),
        path: arguments.path.clone(),
        host: arguments.host.clone(),
        port: arguments.port,
        headers,
        source_ip: arguments.source_ip,
        remote_ip: arguments.remote_ip,
        destination_ip: arguments.destination_ip,
        sni: arguments.sni.clone(),
        claims,
        token: arguments.token.clone(),
        certificate_sha256: arguments.certificate_sha256.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;
    use crate::docs;

    #[test]
    fn decisions_are_explained_as_the_document_shows_them() {
        let shown = docs::shown("docs/policy.md", "authz explain");
        assert!(shown.len() > 2);
        for (command, output) in shown {
            let Command::Authz(AuthzCommand::Explain(mut arguments)) = command.command else {
                panic!("not explain")
            };
            let Some(directory) = arguments.policies.take() else { continue };
            let directory = docs::path(&directory.display().to_string());
            let set = policy::load(&directory, &arguments.mesh).unwrap();
            let mut explainer = Explainer::new(&set, &|_: &RemoteKeys| Err(KeysUnavailable), 0)
                .assuming(assumed(arguments.custom));
            let answer = explainer.answer(&request(&arguments).unwrap());
            assert_eq!(format!("{answer}\n"), output);
        }
    }
}
