//! What tests and demonstrations leave behind when they are killed, and how to find it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::capture;

/// Where iproute2 keeps the names of namespaces.
const NETNS: &str = "/run/netns";
const IP_LIMIT: Duration = Duration::from_secs(20);
/// How long processes have between being asked to end and being killed.
const TERM_PATIENCE: Duration = Duration::from_secs(3);

/// The named network namespaces whose name begins so.
pub fn namespaces(prefix: &str) -> Vec<String> {
    names_in(Path::new(NETNS), prefix)
}

/// The path of a named network namespace.
pub fn namespace_path(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

/// Deletes a named network namespace, and with it its links.
pub fn delete_namespace(name: &str) -> Result<()> {
    capture(Command::new("ip").args(["netns", "delete", name]), IP_LIMIT)?
        .ok(&format!("`ip netns delete {name}`"))
        .map(drop)
}

/// The directories of a bpf filesystem whose name begins so.
pub fn pins(bpffs: &str, prefix: &str) -> Vec<PathBuf> {
    let root = Path::new(bpffs);
    names_in(root, prefix)
        .into_iter()
        .map(|name| root.join(name))
        .filter(|p| p.is_dir())
        .collect()
}

/// Removes a directory and everything in it; fine if it does not exist.
pub fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A process that may have to go.
pub struct Process {
    /// Its id.
    pub id: i32,
    /// Its command line.
    pub arguments: Vec<String>,
}

impl Process {
    /// Whether its environment has this setting, `NAME=value`. Children inherit it, so that it
    /// marks everything that a marked process started.
    pub fn has_environment(&self, setting: &str) -> bool {
        fs::read(format!("/proc/{}/environ", self.id)).is_ok_and(|environment| {
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == setting.as_bytes())
        })
    }

    /// Whether it lives in this named network namespace.
    pub fn is_in(&self, namespace: &str) -> bool {
        let inode = |path: &Path| {
            fs::metadata(path)
                .ok()
                .map(|found| (found.dev(), found.ino()))
        };
        let own = inode(Path::new(&format!("/proc/{}/ns/net", self.id)));
        own.is_some() && own == inode(&namespace_path(namespace))
    }

    /// Whether it is a `netpath agent`.
    pub fn is_agent(&self) -> bool {
        let program = self
            .arguments
            .first()
            .and_then(|path| path.rsplit('/').next());
        program == Some("netpath") && self.arguments.iter().any(|argument| argument == "agent")
    }

    /// Whether any of its arguments contains this.
    pub fn mentions(&self, text: &str) -> bool {
        self.arguments
            .iter()
            .any(|argument| argument.contains(text))
    }
}

/// All processes for which `wanted` holds, except this one.
pub fn processes(wanted: impl Fn(&Process) -> bool) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let this = std::process::id();
    entries
        .filter_map(|entry| {
            let id: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
            let arguments = line
                .split(|byte| *byte == 0)
                .map(|argument| String::from_utf8_lossy(argument).into_owned())
                .collect();
            let process = Process { id, arguments };
            // Kernel threads and zombies have no arguments.
            (id.unsigned_abs() != this && !line.is_empty() && wanted(&process)).then_some(process)
        })
        .collect()
}

/// Ends processes: asks first, then kills.
pub fn end(processes: &[Process]) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for process in processes.iter().filter(|process| is_alive(process.id)) {
            kill(Pid::from_raw(process.id), signal).ok();
        }
        let patience = Instant::now() + TERM_PATIENCE;
        while processes.iter().any(|process| is_alive(process.id)) && Instant::now() < patience {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A zombie is not alive: it waits for its parent only.
fn is_alive(id: i32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| {
        // The name, in parentheses, may contain anything; the state follows its end.
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.trim_start().starts_with('Z'))
    })
}

/// The names in a directory that begin so; none if it does not exist.
pub fn names_in(directory: &Path, prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.as_bytes()
                .starts_with(prefix.as_bytes())
                .then(|| name.into_string().ok())?
        })
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn finds_and_ends_a_marked_process() {
        let mark = format!("NETPATH_XTASK_TEST=leftovers-{}", std::process::id());
        let (name, value) = mark.split_once('=').expect("a setting");
        let mut child = Command::new("sleep")
            .arg("60")
            .env(name, value)
            .stdin(Stdio::null())
            .spawn()
            .expect("sleep starts");
        // The kernel lets us go on a moment before the new program's environment is in place.
        let patience = Instant::now() + Duration::from_secs(5);
        let found = loop {
            let found = processes(|process| process.has_environment(&mark));
            if !found.is_empty() || Instant::now() > patience {
                break found;
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert!(
            found
                .iter()
                .any(|process| process.id.unsigned_abs() == child.id())
        );
        end(&found);
        assert!(!is_alive(found[0].id));
        child.wait().expect("sleep ends");
        assert!(processes(|process| process.has_environment(&mark)).is_empty());
    }

    #[test]
    fn knows_an_agent() {
        let process = |line: &str| Process {
            id: 0,
            arguments: line.split(' ').map(str::to_owned).collect(),
        };
        assert!(process("/usr/bin/netpath agent --uplink eth0").is_agent());
        assert!(!process("netpath ps").is_agent());
        assert!(!process("vi agent").is_agent());
    }

    #[test]
    fn lists_names_by_prefix() {
        assert!(names_in(Path::new("/proc/self"), "ns").contains(&"ns".to_owned()));
        assert!(names_in(Path::new("/nonexistent"), "").is_empty());
    }
}
