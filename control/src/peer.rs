//! Who is at the other end of a connection, as the listener found out.
//!
//! Put into every request's extensions. What somebody may do is decided where they ask for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::Extensions;
use picket_certs::{Identity, Leaf, Role, SpiffeId};
use tonic::Status;

use crate::revocations::List;

/// What whoever shows a revoked certificate is told.
pub(crate) const REVOKED: &str = "the certificate is revoked: ask an operator";

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// What it proved.
    pub(crate) proof: Proof,
    /// Where it is; none on a unix socket.
    pub(crate) address: Option<SocketAddr>,
}

/// What the other end proved about itself.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// Nothing.
    Nothing,
    /// A certificate of our authority. It may have ended since: see [`Leaf::not_after`].
    Certificate(Arc<Leaf>),
    /// A user of this machine who can open the operators' socket.
    UnixUser(u32),
}

/// A workload whose certificate is live.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    /// Who it is.
    pub(crate) id: SpiffeId,
    /// Its certificate.
    pub(crate) leaf: Arc<Leaf>,
    /// Where it is.
    pub(crate) address: Option<SocketAddr>,
}

/// An operator, and what they may do.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    /// How records name them.
    pub(crate) actor: Arc<str>,
    /// What they may do.
    pub(crate) role: Role,
}

impl Peer {
    /// A stranger without an address, for requests that came without a connection's facts.
    const UNKNOWN: Self = Self { proof: Proof::Nothing, address: None };

    /// The peer that a listener put there.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or(Self::UNKNOWN)
    }

    /// The workload, if its certificate is live now and not revoked. Connections may outlive
    /// certificates, so this is asked on every call.
    ///
    /// # Errors
    /// UNAUTHENTICATED, with what to do.
    pub(crate) fn workload(self, revoked: &List, now: SystemTime) -> Result<Workload, Status> {
        let (id, leaf) = self.certificate()?;
        if revoked.refuses(&leaf, now) {
            return Err(Status::unauthenticated(REVOKED));
        }
        if leaf.not_after <= now {
            return Err(Status::unauthenticated("the certificate has expired: renew it"));
        }
        Ok(Workload { id, leaf, address: self.address })
    }

    /// The workload and its certificate, live or not.
    ///
    /// # Errors
    /// UNAUTHENTICATED, with what to do.
    pub(crate) fn certificate(&self) -> Result<(SpiffeId, Arc<Leaf>), Status> {
        if let Proof::Certificate(leaf) = &self.proof
            && let Identity::Workload(id) = &leaf.identity
        {
            return Ok((id.clone(), Arc::clone(leaf)));
        }
        Err(Status::unauthenticated("a workload's certificate is needed: join first"))
    }

    /// The operator, if it is one and the certificate is not revoked.
    pub(crate) fn operator(&self, revoked: &List, now: SystemTime) -> Option<Operator> {
        match &self.proof {
            // The socket's mode lets in nobody but root and the control plane's own user.
            Proof::UnixUser(uid) => {
                Some(Operator { actor: format!("unix:{uid}").into(), role: Role::Admin })
            }
            Proof::Certificate(leaf) if revoked.refuses(leaf, now) => None,
            Proof::Certificate(leaf) if leaf.not_after > now => match &leaf.identity {
                Identity::Operator(id) => {
                    Some(Operator { actor: id.as_str().into(), role: id.role() })
                }
                Identity::Workload(_) => None,
            },
            Proof::Certificate(_) | Proof::Nothing => None,
        }
    }
}
