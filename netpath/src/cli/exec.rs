//! `netpath exec`

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use super::{Context, container_path};
use crate::api::types::Container;
use crate::container::lookup::{self, NOT_EXECUTABLE};
use crate::container::process::Pidfd;
use crate::doctor;
use crate::netlink::netns;
use crate::output::complain;
use crate::problem::{conflict, invalid};
use crate::store::ProcessId;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container
    name: String,

    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Returns only if the command cannot be executed: this process becomes the command.
pub fn run(args: Args, context: &Context) -> Result<ExitCode> {
    if !doctor::has_capability() {
        return Err(invalid(
            "a command can only be run in a container by root (it needs CAP_SYS_ADMIN), use sudo",
        ));
    }
    let container: Container = context.client().get(&container_path(&args.name)?)?;
    let folder = std::env::current_dir();
    let failed = || format!("cannot enter container {}", container.name);
    match (
        container.state.as_str(),
        container.pid,
        container.start_time,
    ) {
        ("running", Some(pid), Some(start_time)) => {
            let (process, flags) = enterable(pid, start_time)
                .ok_or_else(|| conflict(format!("container {} ended just now", container.name)))?;
            setns(process, flags).with_context(failed)?;
        }
        ("attached", ..) => {
            let netns = netns::open(&container.netns)
                .with_context(failed)?
                .filter(|netns| is_same(netns, container.netns_id))
                .ok_or_else(|| {
                    conflict(format!(
                        "{} is not the namespace any more that was attached as {}",
                        container.netns.display(),
                        container.name
                    ))
                })?;
            setns(netns, CloneFlags::CLONE_NEWNET).with_context(failed)?;
        }
        ("docker", ..) => {
            return Err(conflict(format!(
                "{} is a container of Docker's, use \"docker exec\"",
                container.name
            )));
        }
        _ => {
            return Err(conflict(format!(
                "container {} is not running (it is {}), start a new one with \"netpath run\"",
                container.name, container.state
            )));
        }
    }
    // A mount namespace begins at its root.
    if let Ok(folder) = folder {
        let _ = std::env::set_current_dir(folder);
    }
    let (name, arguments) = args.command.split_first().context("no command was given")?;
    let path = std::env::var_os("PATH");
    let program = match lookup::find(name, path.as_deref()) {
        Ok(program) => program,
        Err(unusable) => {
            complain(&unusable.to_string());
            return Ok(ExitCode::from(unusable.code));
        }
    };
    let error = Command::new(&program).arg0(name).args(arguments).exec();
    complain(&format!(
        "{} cannot be executed: {error}",
        program.display()
    ));
    Ok(ExitCode::from(NOT_EXECUTABLE))
}

/// A path below /proc may lead to the namespace of another process by now.
fn is_same(netns: &File, id: Option<(u64, u64)>) -> bool {
    let found = netns.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    found.is_some() && found == id
}

/// A process whose namespaces can be entered: the one that started at `start_time`, not a
/// later one of the same number.
fn enterable(pid: u32, start_time: u64) -> Option<(std::os::fd::OwnedFd, CloneFlags)> {
    let pidfd = Pidfd::open(pid).ok()?;
    let now = ProcessId::of(pid)?;
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    (now.start_time == start_time && now.is_alive()).then(|| (pidfd.into_fd(), flags))
}
