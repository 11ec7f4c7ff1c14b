//! `picket demo`: its story, and what it leaves behind.

use std::collections::HashSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use picket_testkit::{Process, Signal, eventually, system};
use tempfile::TempDir;

use crate::command::picket;

/// Time for a whole demo on a busy machine; it takes about three seconds on an idle one.
const DEMO: Duration = Duration::from_secs(90);

/// A demo with a directory for temporary files of its own, by which its processes are known.
struct Demo {
    process: Process,
    mark: String,
    /// Every port that one of its processes was seen to listen on.
    ports: HashSet<u16>,
    most_processes: usize,
    temporary: TempDir,
    _log: TempDir,
}

impl Demo {
    fn start() -> Self {
        let (temporary, log) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut command = picket(&["demo"]);
        command.env("TMPDIR", temporary.path());
        let mark = format!("TMPDIR={}", temporary.path().display());
        let process = Process::start("demo", log.path(), command);
        let (ports, most_processes) = (HashSet::new(), 0);
        Self { process, mark, ports, most_processes, temporary, _log: log }
    }

    /// Its own process and all that it has started, and those started in turn.
    fn processes(&self) -> Vec<u32> {
        system::with_environment(&self.mark)
    }

    /// Looks at what runs now.
    fn look(&mut self) {
        let processes = self.processes();
        self.most_processes = self.most_processes.max(processes.len());
        self.ports.extend(system::ports_of(&processes));
    }

    #[track_caller]
    fn until_it_says(&mut self, words: &str) {
        eventually(DEMO, words, || {
            self.look();
            assert!(self.process.ended().is_none(), "it ended early: {}", self.process.log());
            self.process.log().contains(words).then_some(())
        });
    }

    #[track_caller]
    fn tells_its_story(&mut self) {
        let status = eventually(DEMO, "the demo ends", || {
            self.look();
            self.process.ended()
        });
        let story = self.process.log();
        assert!(status.success(), "{status}: {story}");
        for words in [
            "√ as it should be",
            "nearest miss",
            "19  the audit trail",
            "All 19 steps gave what they should.",
            "nothing is left behind",
        ] {
            assert!(story.contains(words), "{words:?} is not in {story}");
        }
        assert!(!story.contains('×') || !story.contains("not as it should"), "{story}");
        // The demo, the control plane, four sidecars, three services.
        assert!(self.most_processes >= 9, "only {} processes were seen", self.most_processes);
        assert!(self.ports.len() >= 15, "only these ports were seen: {:?}", self.ports);
    }

    #[track_caller]
    fn left_no_process(&self) {
        eventually(Duration::from_secs(20), "every process of the demo has ended", || {
            self.processes().is_empty().then_some(())
        });
        let ports = system::listened_on(&self.ports);
        assert!(ports.is_empty(), "{ports:?} are still listened on");
    }

    #[track_caller]
    fn left_nothing(&self) {
        self.left_no_process();
        let files: Vec<_> = entries(self.temporary.path());
        assert!(files.is_empty(), "{files:?} are left");
    }
}

fn entries(directory: &Path) -> Vec<std::ffi::OsString> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn three_in_a_row_tell_their_story_and_leave_nothing() {
    for _ in 0..3 {
        let mut demo = Demo::start();
        demo.tells_its_story();
        demo.left_nothing();
    }
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let mut demos = [Demo::start(), Demo::start()];
    thread::scope(|scope| {
        for demo in &mut demos {
            scope.spawn(|| demo.tells_its_story());
        }
    });
    for demo in &demos {
        demo.left_nothing();
    }
}

#[test]
fn interrupted_it_leaves_nothing() {
    for words in ["control plane  127.0.0.1", "shop/web ", "  3. web deletes an order", "kill -9"] {
        let mut demo = Demo::start();
        demo.until_it_says(words);
        demo.process.signal(Signal::INT);
        let status = demo.process.wait(Duration::from_secs(20));
        assert_eq!(status.code(), Some(3), "interrupted at {words:?}: {status}");
        demo.left_nothing();
    }
}

#[test]
fn killed_it_leaves_no_process() {
    let mut demo = Demo::start();
    demo.until_it_says("  3. web deletes an order");
    assert!(demo.most_processes >= 9);
    demo.process.kill();
    demo.left_no_process();
}
