//! Logs of the long-running commands, on standard error.
//!
//! `PICKET_LOG` sets what is logged (`info`, `debug`, `picket_proxy=debug`, …), `PICKET_LOG_FORMAT`
//! how: `text` (default) or `json`. Whatever is set, nothing is logged of what requests carry.

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::exit::Failure;

/// Starts logging, with a further layer if there is one.
pub(crate) fn start(more: Option<Box<dyn Layer<Registry> + Send + Sync>>) -> Result<(), Failure> {
    let filter = match std::env::var("PICKET_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text)
            .map_err(|error| Failure::Usage(format!("PICKET_LOG={text}: {error}")))?,
        _ => EnvFilter::new("info"),
    };
    let layer = match std::env::var("PICKET_LOG_FORMAT").as_deref() {
        Ok("json") => layer(filter, true),
        Ok("text" | "") | Err(_) => layer(filter, false),
        Ok(other) => {
            return Err(Failure::Usage(format!("PICKET_LOG_FORMAT={other}: use text or json")));
        }
    };
    let started = tracing_subscriber::registry().with(more).with(layer).try_init();
    started.map_err(|error| Failure::of(&error))
}

fn layer<S>(filter: EnvFilter, json: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = filter.and(filter_fn(holds_no_traffic));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if json {
        layer.json().with_filter(filter).boxed()
    } else {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        layer.with_ansi(colour).with_target(false).with_filter(filter).boxed()
    }
}

/// Libraries print headers and bodies at their lowest level; ours never do.
fn holds_no_traffic(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::DEBUG || metadata.target().starts_with("picket")
}
