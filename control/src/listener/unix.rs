//! The operators' unix socket.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::peer::{Peer, Proof};

/// Longest path that a unix socket can have, in bytes (`sockaddr_un`).
const MAX_PATH: usize = 107;

/// Why the operators' socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit.
    #[error(
        "the path {} is longer than the {MAX_PATH} bytes that a unix socket can have; \
         use a shorter stateDir", .0.display()
    )]
    TooLong(PathBuf),
    /// Somebody listens there.
    #[error("another process listens on {}", .0.display())]
    Live(PathBuf),
    /// Something else has that name.
    #[error("{} is there and is no socket; remove it", .0.display())]
    NoSocket(PathBuf),
    /// The system refused.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Listens on a socket that only its owner may open, in place of one that a dead process left.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    if path.as_os_str().len() > MAX_PATH {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(SocketError::Live(path.to_owned())),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever was quicker is turned away by their user id: see `peer`.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Who is at the other end: none but root and the control plane's own user, whatever the mode says.
pub(super) fn peer(stream: &UnixStream) -> Option<Peer> {
    let uid = stream.peer_cred().ok()?.uid();
    let own = rustix::process::geteuid().as_raw();
    if uid != 0 && uid != own {
        tracing::warn!(uid, "a user who may not was refused at the operators' socket");
        return None;
    }
    Some(Peer { proof: Proof::UnixUser(uid), address: None })
}
