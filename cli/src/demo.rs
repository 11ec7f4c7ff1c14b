//! `picket demo`: a whole mesh on loopback, and its story.
//!
//! Everything that runs is what a user would run: this very binary as control plane and sidecars, the
//! sample shop as plain HTTP services, each a process of its own. What is told of a request is what
//! the audit trail says of it. Nothing is left behind.

mod http;
mod mesh;
mod policies;
mod process;
mod story;
mod tokens;

use crate::args::DemoCommand;
use crate::exit::{Exit, Failure};
use crate::output;
use mesh::Mesh;
use story::Story;

/// Where Jaeger takes OTLP by default.
const JAEGER: &str = "127.0.0.1:4317";

pub(crate) async fn run(command: DemoCommand) -> Result<Exit, Failure> {
    let traces = match command.jaeger {
        Some(url) => Some(url),
        None => {
            tokio::net::TcpStream::connect(JAEGER).await.ok().map(|_| format!("http://{JAEGER}"))
        }
    };
    let mut mesh = unless_interrupted(Mesh::start(traces.as_deref())).await?;
    let told = unless_interrupted(Story::new(&mut mesh).tell()).await;
    let result = match told {
        Ok(all_as_expected) => {
            if command.keep {
                mesh.keep().await?;
            }
            if all_as_expected { Ok(Exit::Fine) } else { Ok(Exit::Problems) }
        }
        Err(failure) => Err(match mesh.post_mortem() {
            Some(died) => Failure::Failed(format!("{failure}\n{died}")),
            None => failure,
        }),
    };
    let in_order = mesh.end();
    match (&result, in_order) {
        (Ok(_), false) => Err(Failure::Failed("a process did not end in order".to_owned())),
        (Ok(_), true) => {
            output::line("The mesh has ended; nothing is left behind.")?;
            result
        }
        (Err(_), _) => result,
    }
}

/// What is cut off drops its processes and its directory with it.
async fn unless_interrupted<T>(
    part: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        result = part => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::Failed("interrupted".to_owned())),
    }
}
