//! Taking away what laboratories have made.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Removes a named namespace, and ends the processes in it.
pub fn remove_namespace(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    for pid in
        String::from_utf8_lossy(&pids.map(|o| o.stdout).unwrap_or_default()).split_whitespace()
    {
        if let Ok(pid) = pid.parse() {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

/// Removes a folder of pins.
pub fn remove_pins(folder: &Path) {
    // Pins are files one or two levels deep; a bpffs has no recursion surprises.
    let _ = fs::remove_dir_all(folder);
}

/// Removes what test runs that were killed have left: things named after processes that are gone.
pub fn remove_leftovers() {
    let gone = |name: &str, prefix: &str| {
        name.strip_prefix(prefix)
            .and_then(|rest| rest.split('-').next())
            .is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    let list = |folder: &str| {
        fs::read_dir(folder)
            .map(|entries| {
                entries
                    .flatten()
                    .map(|e| e.file_name().to_string_lossy().into_owned())
                    .collect::<Vec<_>>()
            })
            .unwrap_or_default()
    };
    for name in list("/run/netns")
        .iter()
        .filter(|name| gone(name, "np-test-"))
    {
        remove_namespace(name);
    }
    for hierarchy in crate::docker::hierarchies() {
        let names = list(&hierarchy.display().to_string());
        for name in names.iter().filter(|name| gone(name, "np-test-")) {
            crate::docker::remove_group(&hierarchy.join(name));
        }
    }
    for name in list("/sys/fs/bpf")
        .iter()
        .filter(|name| gone(name, "netpath-test-"))
    {
        remove_pins(&Path::new("/sys/fs/bpf").join(name));
    }
}
