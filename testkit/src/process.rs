//! Child processes and the ports that they listen on.
//!
//! None outlives its test: a [`Process`] is killed when it is dropped, and one of ours ends by itself
//! when the pipe to its standard input breaks because the test process was killed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

use crate::eventually;

/// Asks a process of ours to end when its standard input does.
const END_WITH_STDIN: &str = "PICKET_END_WITH_STDIN";

/// A running child with a log of its own. A further start under the same name continues the log.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program of ours; what it prints goes to `<directory>/<name>.log`.
    pub fn start(name: &str, directory: &Path, mut command: Command) -> Self {
        let log = directory.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log).unwrap();
        command
            .env(END_WITH_STDIN, "1")
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Starts a program that knows nothing of our pipe: `setpriv` (util-linux) lets the kernel kill it
    /// when the thread that started it ends.
    pub fn foreign(name: &str, directory: &Path, program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        Self::start(name, directory, command)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal. One that has ended already gets none.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _gone = kill_process(pid.unwrap(), signal);
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
        self.child.wait().unwrap();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended within `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(limit, &what, || self.child.try_wait().unwrap())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it has not ended within `limit`.
    #[track_caller]
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// What it has printed, earlier processes under the same name included.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process is killed, too. Already gone is what is wanted.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n  ");
            eprintln!("the end of the log of {}:\n  {tail}", self.name);
        }
    }
}

/// A port that nobody else gets until it is let go of, just before the process that shall have it is
/// started. It is outside the range from which the system picks ports for outgoing connections, so
/// that a restarted process finds it free, and outside the range of `picket demo`.
pub struct Port(TcpListener);

impl Port {
    /// Reserves one that no other test of this process has had.
    ///
    /// # Panics
    /// When there is none.
    pub fn reserve() -> Self {
        static HAD: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
        let mut had = HAD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let had = had.get_or_insert_default();
        for _ in 0..1_000 {
            let port = fastrand::u16(10_000..20_000);
            if had.contains(&port) {
                continue;
            }
            if let Ok(socket) = TcpListener::bind(("127.0.0.1", port)) {
                had.insert(port);
                return Self(socket);
            }
        }
        panic!("there is no free port");
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Lets go of it, for the process that is started next.
    pub fn release(self) -> SocketAddr {
        self.address()
    }
}

/// What the system knows of running processes (Linux, `/proc`).
pub mod system {
    use super::{HashSet, fs};

    /// The processes that were started with this in their environment, as `NAME=value`.
    pub fn with_environment(entry: &str) -> Vec<u32> {
        let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        all.filter_map(|directory| {
            let id: u32 = directory.file_name().to_str()?.parse().ok()?;
            // A process that has ended meanwhile, or is a zombie, has no environment.
            let environment = fs::read(directory.path().join("environ")).ok()?;
            let has = environment.split(|&byte| byte == 0).any(|e| e == entry.as_bytes());
            has.then_some(id)
        })
        .collect()
    }

    /// The IPv4 TCP ports that any process listens on, with the inodes of the sockets.
    fn listening() -> Vec<(u16, String)> {
        const LISTEN: &str = "0A";
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let rows = table.lines().skip(1).filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = fields.get(1)?.rsplit(':').next()?;
            let port = u16::from_str_radix(port, 16).ok()?;
            (*fields.get(3)? == LISTEN).then(|| Some((port, (*fields.get(9)?).to_owned())))?
        });
        rows.collect()
    }

    /// Those of these ports that somebody listens on.
    pub fn listened_on(ports: &HashSet<u16>) -> Vec<u16> {
        listening().into_iter().map(|(port, _)| port).filter(|port| ports.contains(port)).collect()
    }

    /// The ports that these processes listen on.
    pub fn ports_of(processes: &[u32]) -> HashSet<u16> {
        let mut inodes = HashSet::new();
        for process in processes {
            let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { continue };
            for file in open.filter_map(Result::ok) {
                let target = fs::read_link(file.path()).unwrap_or_default();
                let target = target.to_string_lossy();
                let inode = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']'));
                inodes.extend(inode.map(str::to_owned));
            }
        }
        let listening = listening().into_iter();
        listening.filter(|(_, inode)| inodes.contains(inode)).map(|(port, _)| port).collect()
    }

    /// Forgets the highest memory that a process has used so far; says whether the system does that.
    pub fn forget_peak_memory(process: u32) -> bool {
        fs::write(format!("/proc/{process}/clear_refs"), "5").is_ok()
    }

    /// The highest resident memory of a process, in KiB.
    pub fn peak_memory(process: u32) -> u64 {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}
