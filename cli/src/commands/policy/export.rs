//! `picket policy export`: what holds for a workload as configuration for another proxy.

use picket_policy::Diagnostics;
use picket_policy::envoy::{EnvoyConfig, Listener, Protocol};

use super::{load, words, workload};
use crate::args::{ExportCommand, MtlsArgument, ProtocolArgument};
use crate::exit::{Exit, Failure};
use crate::output;

pub(super) fn run(command: &ExportCommand) -> Result<Exit, Failure> {
    let dir = &command.dir;
    if !dir.is_dir() {
        return Err(Failure::Usage(format!("{}: there is no such directory", dir.display())));
    }
    let workload = workload(&command.destination, &command.label)?;
    let set = load(dir, &command.mesh)?;
    let port = command.port.or(command.forward.map(|forward| forward.port()));
    let refused = |problems: Diagnostics| Failure::Problems(words(dir, &problems));
    let config = EnvoyConfig::of(&set, &workload, port).map_err(refused)?;
    if !config.warnings.is_empty() {
        eprintln!("{}", words(dir, &config.warnings));
    }
    match listener(command) {
        Some(listener) => output::json(&config.bootstrap(&listener))?,
        None => output::json(&config.fragment())?,
    }
    hints(command);
    Ok(Exit::Fine)
}

/// Where Envoy shall listen, if it is said; the command line sees to it that all of it is.
fn listener(command: &ExportCommand) -> Option<Listener> {
    Some(Listener {
        listen: command.listen?,
        forward: command.forward?,
        protocol: match command.protocol {
            ProtocolArgument::Http => Protocol::Http,
            ProtocolArgument::Tcp => Protocol::Tcp,
        },
        certificate: command.certificate.clone()?,
        key: command.key.clone()?,
        bundle: command.bundle.clone()?,
        trusted_hops: command.trusted_hops.into(),
    })
}

/// What a reader may have missed, on standard error.
fn hints(command: &ExportCommand) {
    if command.label.is_empty() {
        eprintln!(
            "hint: no --label was given; policies with a selector do not select this workload"
        );
    }
    if command.mesh.default_mtls == MtlsArgument::Permissive {
        eprintln!(
            "hint: where no PeerAuthentication says a mode, clients need not show a certificate; a proxy \
             whose default mTLS mode is STRICT demands one: --default-mtls strict"
        );
    }
}
