//! Names: what containers of user-defined networks are told at 127.0.0.11, as dig, glibc, musl
//! and raw datagrams see it.

mod files;
mod life;
mod tables;
mod timing;
mod upstreams;

use std::fs;
use std::path::PathBuf;

use netpath_tests::lab::{Lab, OUT4};

/// A container's answer section as dig prints it in short form, in no order.
#[track_caller]
fn dig(lab: &Lab, container: &str, words: &[&str]) -> Vec<String> {
    let mut all = vec!["dig", "+short", "+timeout=3", "+tries=2"];
    all.extend(words);
    let text = lab.exec(container, &all).ok();
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    lines.sort();
    lines
}

/// All that dig prints.
#[track_caller]
fn dig_all(lab: &Lab, container: &str, words: &[&str]) -> String {
    let mut all = vec!["dig", "+timeout=5", "+tries=1"];
    all.extend(words);
    lab.exec(container, &all).ok()
}

/// Makes network `name` with subnets `10.N.0.0/24` and `fdN::/64`.
#[track_caller]
fn network(lab: &Lab, name: &str, number: u8, options: &[&str]) {
    let (v4, v6) = (format!("10.{number}.0.0/24"), format!("fd{number}::/64"));
    let mut all = vec!["network", "create", name, "--subnet", &v4, "--subnet", &v6];
    all.extend(options);
    lab.netpath(&all).ok();
}

/// A container that sleeps.
#[track_caller]
fn sleeper(lab: &Lab, name: &str, options: &[&str]) {
    lab.run(name, options, &["sleep", "600"]);
}

/// The host's list of name servers, for agents that are told to read it there.
fn resolv_conf(lab: &Lab) -> PathBuf {
    lab.dir().join("resolv.conf")
}

/// A laboratory whose host asks the outside machine for names.
fn lab_with_upstream() -> Lab {
    lab_with_resolv_conf(&format!("search corp.example\nnameserver {OUT4}\n"))
}

/// A laboratory whose host has this `resolv.conf`.
fn lab_with_resolv_conf(text: &str) -> Lab {
    let mut lab = Lab::without_agent();
    let path = resolv_conf(&lab);
    fs::write(&path, text).expect("a file");
    lab.agent_options(&["--resolv-conf", &path.display().to_string()]);
    lab.start_agent();
    lab
}

/// The processes that serve names for a laboratory.
fn servers(lab: &Lab) -> Vec<u32> {
    let folder = lab.dir().join("run").display().to_string();
    let is_server = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        words.contains(&&b"name-server"[..]) && words.contains(&folder.as_bytes())
    };
    let entries = fs::read_dir("/proc").expect("/proc");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_server)
        .collect()
}
