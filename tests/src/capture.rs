//! Captures of what a device receives: whole frames, and the kernel's time of each.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a capture file before its first frame (libpcap's savefile format, version 2.4).
const FILE_HEADER: usize = 24;
/// Bytes before each frame: seconds, microseconds, length here, length on the wire.
const FRAME_HEADER: usize = 16;

/// A frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When the kernel received it, with microseconds.
    pub at: SystemTime,
    /// From the destination's address on, tags of VLANs included.
    pub bytes: Vec<u8>,
}

/// A capture that runs.
pub struct Capture {
    tcpdump: Child,
    file: tempfile::TempPath,
}

impl Capture {
    /// Captures what a device of a network namespace, given by its file, receives and `filter`
    /// lets through. Nothing that comes after the return is missed.
    #[track_caller]
    pub fn start(netns: &str, device: &str, filter: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let file = file.into_temp_path();
        let mut tcpdump = Command::new("nsenter")
            .arg(format!("--net={netns}"))
            .args(["tcpdump", "-i", device, "-Q", "in", "--immediate-mode"])
            // Written at once, by a tcpdump that stays root: the file is root's.
            .args(["-U", "-Z", "root", "-w"])
            .arg(&file)
            .arg(filter)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump starts");
        let mut said = BufReader::new(tcpdump.stderr.take().expect("a pipe")).lines();
        let listens = |line: Result<String, _>| line.is_ok_and(|line| line.contains("listening"));
        let listens = said.by_ref().any(listens);
        // Nobody reads on, so it must not block on a full pipe.
        thread::spawn(move || said.for_each(drop));
        let capture = Self { tcpdump, file };
        assert!(listens, "tcpdump does not listen on {device}");
        capture
    }

    /// What it has got so far.
    pub fn frames(&self) -> Vec<Frame> {
        let bytes = fs::read(&self.file).unwrap_or_default();
        let mut rest = bytes.get(FILE_HEADER..).unwrap_or_default();
        let mut frames = Vec::new();
        while let Some((frame, after)) = first(rest) {
            frames.push(frame);
            rest = after;
        }
        frames
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// The first of some frames, and the others; `None` if it is not there as a whole.
fn first(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes(word.try_into().ok()?))
    };
    let length = usize::try_from(word(8)?).ok()?;
    let end = FRAME_HEADER + length;
    let since = Duration::from_secs(word(0)?.into()) + Duration::from_micros(word(4)?.into());
    let frame = Frame {
        at: UNIX_EPOCH + since,
        bytes: bytes.get(FRAME_HEADER..end)?.to_vec(),
    };
    Some((frame, &bytes[end..]))
}
