//! A raw connection to the service: decided once, then passed byte by byte.

use std::sync::Arc;

use crate::authorize;
use crate::connection::Connection;
use crate::error::RequestError;
use crate::forward;
use crate::server::Stream;

/// Serves an inbound connection on a port of protocol `tcp`.
pub(crate) async fn serve<S: Stream>(connection: Connection, mut stream: S) {
    let Some(snapshot) = connection.worker.shared.current.load() else { return };
    let mut audit = connection.audit_connection();
    let generation = Arc::clone(&snapshot.policy.generation);
    match authorize::inbound_tcp(&snapshot.policy, &connection) {
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
    if let Err(error) = audit.begin() {
        return audit.refused(&error);
    }
    match connection.port.upstream.connect().await {
        Ok(mut to) => forward::tunnel(&mut stream, &mut to.stream, &mut audit).await,
        Err(error) => audit.refused(&RequestError::Upstream(error)),
    }
}
