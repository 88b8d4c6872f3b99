//! `cargo xtask clean-machine`: takes away what killed tests and demonstrations left.

use anyhow::Result;

use crate::bench;
use crate::host::{BPFFS, become_root, is_root};
use crate::leftovers::{self, delete_namespace, end, namespaces, pins, remove_directory};

/// How the names of namespaces begin that tests and the demonstration make. All of their links
/// are in them: those of the machine itself are an agent's in real use, even if it does not run
/// just now.
const NAMESPACES: [&str; 2] = ["np-test-", "np-demo-"];
/// Directories under bpffs, and parts of the arguments, of agents that are not for real use.
const MARKS: [&str; 2] = ["netpath-test", "netpath-demo"];

/// Finds and removes; what could not be removed is an error, after the rest is done.
pub fn run() -> Result<()> {
    if !is_root() {
        return become_root(&["clean-machine".to_owned()], "removing namespaces");
    }
    let mut removed = 0;
    let mut problems = Vec::new();
    let mut note = |what: String, result: Result<()>| match result {
        Ok(()) => {
            println!("removed {what}");
            removed += 1;
        }
        Err(error) => problems.push(format!("{what}: {error:#}")),
    };

    let spaces: Vec<String> = NAMESPACES.into_iter().flat_map(namespaces).collect();
    let stray = leftovers::processes(|process| {
        (process.is_agent() && MARKS.iter().any(|mark| process.mentions(mark)))
            || process.has_environment(crate::demo::MARK)
            || spaces.iter().any(|space| process.is_in(space))
    });
    end(&stray);
    for process in &stray {
        note(
            format!(
                "process {} ({})",
                process.id,
                process.arguments.join(" ").trim()
            ),
            Ok(()),
        );
    }
    for space in spaces {
        let result = delete_namespace(&space);
        note(format!("namespace {space}"), result);
    }
    for pin in MARKS.iter().flat_map(|mark| pins(BPFFS, mark)) {
        let result = remove_directory(&pin);
        note(format!("pins {}", pin.display()), result);
    }
    let demo = std::path::Path::new(crate::demo::DIRECTORY);
    if demo.exists() {
        let result = remove_directory(demo);
        note(format!("directory {}", demo.display()), result);
    }

    for run in bench::killed() {
        let result = bench::remove(&run);
        note(format!("benchmark {}", run.display()), result);
    }

    if !problems.is_empty() {
        anyhow::bail!("could not remove {}", problems.join("; "));
    }
    if removed == 0 {
        println!("nothing to remove");
    }
    Ok(())
}
