//! `picket control`

use picket_control::telemetry::ProcessTraces;
use picket_control::{Config, run as run_control};
use tracing_subscriber::{Layer as _, Registry};

use super::{asked_to_end, config_text};
use crate::args::ControlCommand;
use crate::exit::{Exit, Failure};
use crate::logging;

pub(crate) fn run(command: ControlCommand) -> Result<Exit, Failure> {
    let ControlCommand::Run { config } = command;
    let (text, name) = config_text(config.as_deref())?;
    let config = Config::load(&text, &name, std::env::vars())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::of(&error))?;
    let traces = {
        let _inside = runtime.enter();
        config.export.as_ref().map(ProcessTraces::new).transpose()
    };
    let traces = traces.map_err(|error| Failure::of(&error))?;
    logging::start(traces.as_ref().map(|traces| traces.layer::<Registry>().boxed()))?;
    let ended = runtime.block_on(run_control(config, asked_to_end()));
    if let Some(traces) = traces {
        traces.shutdown();
    }
    ended.map_err(|error| Failure::of(&error))?;
    Ok(Exit::Fine)
}
