//! Packages of Debian and its descendants.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::{privileged, program};
use crate::run::{Step, capture, log_file};

/// Downloads are bounded by apt's own timeouts; this bounds a mirror that trickles.
const INSTALL_LIMIT: Duration = Duration::from_secs(30 * 60);
const UPDATE_LIMIT: Duration = Duration::from_secs(5 * 60);
const QUERY_LIMIT: Duration = Duration::from_secs(30);

/// Whether this machine's packages are managed by apt.
pub fn is_here() -> bool {
    program("apt-get").is_some() && program("dpkg").is_some()
}

/// The version apt would install, if it knows the package.
pub fn candidate(package: &str) -> Option<String> {
    let mut query = Command::new("apt-cache");
    let said = capture(
        query.args(["policy", package]).env("LC_ALL", "C"),
        QUERY_LIMIT,
    )
    .ok()?;
    parse_candidate(&said.stdout)
}

fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?
        .trim();
    (version != "(none)").then(|| version.to_owned())
}

/// Major and minor of a package version such as `1:1.96.0+dfsg1-1`.
pub fn major_minor(version: &str) -> Option<(u32, u32)> {
    let upstream = version
        .split_once(':')
        .map_or(version, |(_epoch, rest)| rest);
    let mut numbers = upstream.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Installing, with the lists of packages refreshed once, and only if something is installed.
pub struct Apt<'a> {
    workspace: &'a Path,
    updated: bool,
}

impl<'a> Apt<'a> {
    /// Nothing happens yet.
    pub fn new(workspace: &'a Path) -> Self {
        Self {
            workspace,
            updated: false,
        }
    }

    /// Refreshes the lists, once. Not fatal: one unreachable third-party repository makes apt
    /// fail here, and what is to be installed may well be known already.
    pub fn update(&mut self) {
        if self.updated {
            return;
        }
        self.updated = true;
        let refreshed = Step {
            title: "refreshing the package lists",
            log: log_file(self.workspace, "apt-update"),
            limit: UPDATE_LIMIT,
            advice: "check the network and /etc/apt/sources.list*, then run `apt-get update`",
        }
        .run(apt_get(&["apt-get"]).arg("update"));
        if let Err(error) = refreshed {
            eprintln!("going on with the package lists as they are: {error}");
        }
    }

    /// Installs packages, without what they only recommend.
    pub fn install(&mut self, packages: &[String]) -> Result<()> {
        self.update();
        Step {
            title: &format!("installing {}", packages.join(" ")),
            log: log_file(self.workspace, "apt-install"),
            limit: INSTALL_LIMIT,
            advice: "run the first line of the log by hand to see what apt asks for",
        }
        .run(
            apt_get(&["sh", "-c", WITHOUT_SERVICES, "sh", "apt-get"])
                .args(["install", "-y", "--no-install-recommends"])
                .args(packages),
        )
        .context("apt")
    }
}

/// Runs a command while packages must not start their services (invoke-rc.d(8)), unless the
/// administrator has a policy already: the tests start what they need, in namespaces of their own,
/// and a Docker daemon would change the machine's network.
const WITHOUT_SERVICES: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
"$@"
"#;

/// apt-get, called by `program` and its first arguments.
fn apt_get(program: &[&str]) -> Command {
    // Through `env`, because sudo does not pass variables on.
    let mut command = privileged("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]);
    command.args(program);
    command.args([
        "-o",
        // Another apt at work (unattended upgrades) is waited for, but not for ever.
        "DPkg::Lock::Timeout=120",
        "-o",
        "Acquire::Retries=2",
        "-o",
        "Acquire::http::Timeout=60",
        "-o",
        "Acquire::https::Timeout=60",
        "-o",
        // A question about a configuration file would wait for nobody: keep the user's.
        "Dpkg::Options::=--force-confold",
    ]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_candidates() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert_eq!(
            parse_candidate(policy).as_deref(),
            Some("1.96.0+dfsg1-1~deb12u2")
        );
        assert_eq!(parse_candidate("x:\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn reads_package_versions() {
        assert_eq!(major_minor("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(major_minor("1:22.1.8-1~deb12u1"), Some((22, 1)));
        assert_eq!(major_minor("rolling"), None);
    }
}
