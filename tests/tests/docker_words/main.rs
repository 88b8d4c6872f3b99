//! A script that was written for Docker does the same with netpath.
//!
//! Each line runs on a real dockerd and on netpath, with nothing but the program's name replaced.
//! Two things are not the same by nature, and are made the same here: netpath has no images, so the
//! word that names one after `run` is left out; and ids, MAC addresses and times differ between
//! any two runs. What a command complains about is said in other words: it is compared whether
//! there is a complaint, and whether the exit code says so.

use netpath_tests::command::Ran;
use netpath_tests::docker::{Docker, IMAGE};
use netpath_tests::lab::{Lab, netpath_binary};

/// The script. `$` is the program; words are separated by spaces, and quoted as in a shell.
const SCRIPT: &str = include_str!("script.sh");

/// The words of a line: single quotes keep spaces, nothing else is special.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut any) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                any = true;
            }
            ' ' if !quoted => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => {
                word.push(c);
                any = true;
            }
        }
    }
    assert!(!quoted, "an open quotation in {line}");
    if any {
        words.push(word);
    }
    words
}

/// What differs between any two runs, by a word for it. Lines of a listing that has no order of
/// its own (containers of a network are sorted by their random ids) are sorted.
fn normalised(line: &str, ran: &Ran) -> (bool, String) {
    let detached = line.starts_with("run -d");
    let exec = line.starts_with("exec");
    let mut lines: Vec<String> = ran
        .stdout
        .lines()
        .map(|line| line.split(' ').map(normal).collect::<Vec<_>>().join(" "))
        .collect();
    if line.contains(".Containers") {
        lines.sort();
    }
    let refused = ran.code != Some(0);
    assert!(
        exec || refused != ran.stderr.trim().is_empty() || !refused,
        "{line} is refused without a word: {ran:?}"
    );
    let text = match (detached && !refused, exec) {
        // The id there, the name here: both name the container.
        (true, _) => "a container".to_owned(),
        // What the programs print is theirs.
        (_, true) => String::new(),
        _ => lines.join("\n"),
    };
    (refused, text)
}

fn normal(word: &str) -> String {
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_mac =
        |text: &str| text.len() == 17 && text.split(':').count() == 6 && text.split(':').all(hex);
    let trimmed = word.trim_matches(['"', ',']);
    if [12, 64].contains(&trimmed.len()) && hex(trimmed) {
        return word.replace(trimmed, "ID");
    }
    if is_mac(trimmed) {
        return word.replace(trimmed, "MAC");
    }
    word.to_owned()
}

#[test]
fn a_script_for_docker_does_the_same_with_netpath() {
    let docker_lab = Lab::without_agent();
    let docker = Docker::start(&docker_lab);
    let lab = Lab::new();
    let lines: Vec<&str> = SCRIPT
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert!(lines.len() >= 30, "{} lines", lines.len());
    let mut differences = Vec::new();
    for line in lines {
        let line = line.strip_prefix("docker ").expect("a line for docker");
        let all = words(line);
        let for_docker: Vec<&str> = all.iter().map(String::as_str).collect();
        let for_netpath: Vec<&str> = for_docker
            .iter()
            .copied()
            .filter(|word| for_docker[0] != "run" || *word != IMAGE)
            .collect();
        let theirs = docker.run(&for_docker);
        let ours = lab.netpath(&for_netpath);
        if normalised(line, &theirs) != normalised(line, &ours) {
            differences.push(format!("{line}\n  docker: {theirs:?}\n  netpath: {ours:?}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of the lines differ ({}):\n{}",
        differences.len(),
        netpath_binary(),
        differences.join("\n")
    );
}
