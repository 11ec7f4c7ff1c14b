//! `picket proxy`

use picket_proxy::ProxyError;
use picket_proxy::config::Config;

use super::{asked_to_end, config_text};
use crate::args::ProxyCommand;
use crate::exit::{Exit, Failure, words};
use crate::logging;

pub(crate) fn run(command: ProxyCommand) -> Result<Exit, Failure> {
    let ProxyCommand::Run { config } = command;
    let (text, name) = config_text(config.as_deref())?;
    let config = Config::load(&text, &name, std::env::vars())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    logging::start(None)?;
    // One thread for everything but data: the workers have their own.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::of(&error))?;
    let ended = runtime.block_on(picket_proxy::run(config, asked_to_end()));
    match ended {
        Ok(_) => Ok(Exit::Fine),
        // What the configuration names is as much a part of it as what it says.
        Err(error @ ProxyError::Files(_)) => Err(Failure::Usage(words(&error))),
        Err(error) => Err(Failure::of(&error)),
    }
}
