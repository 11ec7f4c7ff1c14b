//! A raw connection to the service: decided when it comes and whenever that may have changed, then passed byte by byte.
//!
//! When the right to it is lost, both connections are reset: the bytes themselves do not tell where a whole ends, so an
//! orderly end could be taken for one.

use std::rc::Rc;
use std::sync::Arc;

use crate::authorize;
use crate::connection::Connection;
use crate::error::RequestError;
use crate::recheck::{self, Open, Right};
use crate::server::Stream;
use crate::tunnel::{self, Protocol};

/// Serves an inbound connection on a port of protocol `tcp`.
pub(crate) async fn serve<S: Stream>(connection: Connection, mut stream: S) {
    let Some(snapshot) = connection.worker.shared.current.load() else { return };
    let mut audit = connection.audit_connection();
    let generation = Arc::clone(&snapshot.policy.generation);
    match authorize::inbound_tcp(&snapshot.policy, &connection, Some(audit.facts())).await {
        Ok(decision) => {
            audit.facts().generation = Some(generation);
            audit.facts().decision = Some(decision);
        }
        Err(denial) => {
            audit.facts().decision = Some(denial.decision.clone());
            let code = denial.decision.code.as_str();
            return audit.connection_refused(Some(generation), code, &denial.nearest_miss);
        }
    }
    if let Err(error) = audit.begin().await {
        return audit.refused(&error);
    }
    let connection = Rc::new(connection);
    let until = recheck::until(connection.peer.as_deref(), None);
    let open = Open::new(Right::Connection(Rc::clone(&connection)), snapshot.seen, until);
    drop(snapshot);
    let mut to = match open.unless_lost(connection.port.upstream.connect()).await {
        Ok(Ok(connected)) => connected.stream,
        Ok(Err(error)) => return audit.refused(&RequestError::Upstream(error)),
        Err(lost) => {
            stream.reset_at_end();
            return audit.refused(&RequestError::Lost(lost));
        }
    };
    tunnel::run(&mut stream, &mut to, &mut audit, &open, Protocol::Unknown).await;
    if open.is_lost() {
        stream.reset_at_end();
        to.reset_at_end();
    }
}
