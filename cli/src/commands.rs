//! What each command does.

pub(crate) mod alerts;
pub(crate) mod audit;
pub(crate) mod authz;
pub(crate) mod check;
pub(crate) mod control;
pub(crate) mod detect;
pub(crate) mod join_token;
pub(crate) mod ledger;
pub(crate) mod operator;
pub(crate) mod policy;
pub(crate) mod profile;
pub(crate) mod proxy;
pub(crate) mod receipts;
pub(crate) mod respond;
pub(crate) mod revocation;
pub(crate) mod rules;
pub(crate) mod status;
pub(crate) mod tap;
pub(crate) mod verify;

use std::path::Path;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;

/// A configuration file and the name to speak of it; without one, the environment has to say all.
fn config_text(path: Option<&Path>) -> Result<(String, String), Failure> {
    let Some(path) = path else {
        return Ok((String::new(), "the environment (no --config FILE)".to_owned()));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    Ok((text, path.display().to_string()))
}

/// Set by whoever starts this process and wants it to end when its standard input does: a child that
/// is supervised through a pipe never outlives its parent.
pub(crate) const END_WITH_STDIN: &str = "PICKET_END_WITH_STDIN";

/// Ends this process in order, by SIGTERM, when its standard input ends; only if that is asked for.
pub(crate) fn end_with_stdin() {
    if std::env::var_os(END_WITH_STDIN).is_none() {
        return;
    }
    std::thread::spawn(|| {
        let _copied = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _told = rustix::process::kill_process(rustix::process::getpid(), Signal::TERM);
    });
}

/// Resolves when the process is asked to end: SIGTERM or Ctrl-C.
async fn asked_to_end() {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without signals the process can only be killed.
        _ => std::future::pending().await,
    }
}

/// An id as it may stand in the path of a question; `what` it should name.
pub(crate) fn plain_id<'i>(id: &'i str, what: &str) -> Result<&'i str, Failure> {
    let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric());
    is_id
        .then_some(id)
        .ok_or_else(|| Failure::Usage(format!("{id:?} is no id of {what}; see the list")))
}
