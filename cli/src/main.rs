//! The one binary: proxy, control plane, demo and the operator's commands.
//!
//! Data goes to standard output, words go to standard error. Exit status: 0 fine, 1 problems were
//! found, 2 usage, 3 something cannot be reached or failed, 4 the decision was "deny" (only where
//! `--exit-code` asks for it).
#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod demo;
#[cfg(test)]
mod docs;
mod exit;
mod logging;
mod output;
mod recorded;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Arguments, Command};
use crate::exit::{Exit, Failure};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_small();
    let arguments = Arguments::parse();
    commands::end_with_stdin();
    let result = run(arguments);
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("picket: {failure}");
            failure.exit().into()
        }
    }
}

/// One of us stands beside every service: the allocator asks the kernel for huge pages, which cost a
/// process that is idle three times its memory and gain a busy one nothing that can be measured.
fn keep_small() {
    // A kernel without huge pages refuses; then there is nothing to forgo.
    let _refused = rustix::thread::disable_transparent_huge_pages(true);
}

fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let control = &arguments.control;
    match arguments.command {
        Command::Demo(command) => block_on(demo::run(command)),
        Command::Control(command) => commands::control::run(command),
        Command::Proxy(command) => commands::proxy::run(command),
        Command::Rules(command) => commands::rules::run(command),
        Command::Detect(command) => commands::detect::run(command),
        Command::JoinToken(command) => block_on(commands::join_token::run(command, control)),
        Command::Token(command) => block_on(commands::revocation::tokens(command, control)),
        Command::Certificate(command) => {
            block_on(commands::revocation::certificates(command, control))
        }
        Command::Operator(command) => block_on(commands::operator::run(command, control)),
        Command::Policy(command) => block_on(commands::policy::run(command, control)),
        Command::Authz(command) => block_on(commands::authz::run(command, control)),
        Command::Audit(command) => block_on(commands::audit::run(command, control)),
        Command::Alerts(command) => block_on(commands::alerts::run(command, control)),
        Command::Anomalies(arguments) => block_on(commands::profile::anomalies(arguments, control)),
        Command::Profile(command) => block_on(commands::profile::run(command, control)),
        Command::Respond(command) => block_on(commands::respond::run(command, control)),
        Command::Tap(command) => block_on(commands::tap::run(command, control)),
        Command::Status(command) => block_on(commands::status::run(&command, control)),
        Command::Check(command) => block_on(commands::check::run(&command, control)),
        Command::Shop { arguments } => match picket_shop::run(&arguments) {
            Ok(()) => Ok(Exit::Fine),
            Err(error) => Err(Failure::Usage(error.to_string())),
        },
    }
}

/// Runs a command that asks others and waits for them.
fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::of(&error))?.block_on(command)
}
