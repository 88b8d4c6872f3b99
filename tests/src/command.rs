//! Running commands with a limit on their time.

use std::io::Read as _;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// No command of a test takes longer than this without having hung.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// Standard error of a command that must have failed with one sentence.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(
            self.code.is_some_and(|code| code != 0),
            "it was not refused: {self:#?}"
        );
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "not one sentence: {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        lines[0].to_owned()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Waits until `condition` holds, for ten seconds.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(Duration::from_secs(10), what, condition);
}

/// Waits until `condition` holds, for no longer than this.
#[track_caller]
pub fn eventually_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("not in {} s: {what}", patience.as_secs());
}

/// Starts a command with its output kept.
pub fn start(mut command: Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// Waits for a command that [`start`] began.
#[track_caller]
pub fn finish(child: Child) -> Ran {
    finish_within(child, PATIENCE)
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: Command) -> Ran {
    finish(start(command))
}

/// Waits no longer than this for a command that [`start`] began.
#[track_caller]
pub fn finish_within(mut child: Child, patience: Duration) -> Ran {
    // Both pipes are drained while it runs: a full one would stop it.
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut stderr = child.stderr.take().expect("a pipe");
    let out = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.read_to_end(&mut text);
        text
    });
    let err = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        text
    });
    let end = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a status") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("a command hung");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let stdout = out.join().expect("a reader");
    let stderr = err.join().expect("a reader");
    Output {
        status,
        stdout,
        stderr,
    }
    .into()
}
