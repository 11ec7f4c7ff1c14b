//! The demo's child processes. Each has a log of its own, and none outlives the demo: they end when
//! they are told to, when they are dropped, and when the pipe to their standard input breaks because
//! the demo was killed.

use std::fs::{File, read_to_string};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::commands::END_WITH_STDIN;

/// Time that a process gets to end in order.
const END: Duration = Duration::from_secs(15);

/// A running child.
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts this very program with other arguments.
    pub(super) fn start(name: &str, directory: &Path, arguments: &[&str]) -> io::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let child = Command::new(std::env::current_exe()?)
            .args(arguments)
            // Ctrl-C is for the demo, which then ends its children in order.
            .process_group(0)
            .env(END_WITH_STDIN, "1")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Whether it has ended by itself, which it never should: then with the end of its log.
    pub(super) fn has_died(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let log = read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n  ");
        Some(format!("{} ended ({status}):\n  {tail}", self.name))
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// SIGTERM, to be followed by [`Process::ended`].
    pub(super) fn terminate(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended already.
            let _gone = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits for the end; says whether it was in order.
    pub(super) fn ended(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < END {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.success(),
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => return false,
            }
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is what is wanted.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A port that nobody else gets until it is let go of, just before the process that shall have it is
/// started. It is outside the range from which the system picks ports for outgoing connections, so
/// that a restarted process finds it free.
pub(super) struct Port(TcpListener);

impl Port {
    pub(super) fn reserve() -> io::Result<Self> {
        let mut last = io::ErrorKind::AddrInUse.into();
        for _ in 0..200 {
            let port = fastrand::u16(20_000..32_000);
            match TcpListener::bind(("127.0.0.1", port)) {
                Ok(socket) => return Ok(Self(socket)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
