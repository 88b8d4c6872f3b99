//! `cargo xtask package`: a Debian package, which is then tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::build::{self, cargo, check};
use crate::host::{ensure_privileges, privileged, program};
use crate::run::capture;

/// What every package has to have. (The unit is where cargo-deb puts it: Debian's /lib is /usr/lib.)
const CONTENTS: [&str; 7] = [
    "usr/bin/netpath",
    "lib/systemd/system/netpath.service",
    "usr/lib/docker/plugins/netpath.spec",
    "usr/share/man/man1/netpath.1.gz",
    "usr/share/man/man1/netpath-agent.1.gz",
    "usr/share/doc/netpath/README.md",
    "usr/share/doc/netpath/copyright",
];
/// dpkg writes a few megabytes; this is for a machine that does something else as well.
const PATIENCE: Duration = Duration::from_secs(300);

/// Installs the package `$2` into a copy of this system and removes it again. The copy is an
/// overlay in a tmpfs on `$1` that nobody else sees, without this machine's network, processes, /run
/// and /sys: whatever the package's scripts stop or purge is not there. (Triggers are other packages' work:
/// man-db reads every page there is.)
const TRIAL: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root"
mount -t tmpfs tmpfs "$1/root/run"
mount -t proc proc "$1/root/proc"
mount -t tmpfs tmpfs "$1/root/dev"
for d in null zero random urandom; do
    touch "$1/root/dev/$d"
    mount --bind "/dev/$d" "$1/root/dev/$d"
done
cp "$2" "$1/root/netpath.deb"
in_copy() { chroot "$1" env DEBIAN_FRONTEND=noninteractive "PATH=/usr/sbin:/usr/bin:/sbin:/bin" sh -ec "$2"; }
in_copy "$1/root" '
    dpkg --no-triggers --install /netpath.deb
    netpath --version
    if command -v systemd-analyze > /dev/null; then
        systemd-analyze verify --man=no /usr/lib/systemd/system/netpath.service
    fi
    test "$(cat /usr/lib/docker/plugins/netpath.spec)" = unix:///run/netpath/docker.sock
    dpkg --no-triggers --remove netpath
    dpkg --no-triggers --purge netpath
    for left in /usr/bin/netpath /usr/lib/systemd/system/netpath.service \
        /usr/lib/docker/plugins/netpath.spec /usr/share/man/man1/netpath.1.gz \
        /usr/share/doc/netpath /etc/systemd/system/multi-user.target.wants/netpath.service
    do
        if test -e "$left" || test -L "$left"; then
            echo "the package leaves $left" >&2
            exit 1
        fi
    done
'
"#;

/// Builds, has the product put its files where a package has them, packs them, and tries the
/// package. With `built` the program of the last release build is taken.
pub fn run(workspace: &Path, built: bool) -> Result<()> {
    let mut version = cargo(workspace);
    version.args(["deb", "--version"]);
    if !capture(&mut version, build::LIMIT)?.status.success() {
        bail!("cargo-deb makes the package, install it with `cargo install cargo-deb`");
    }
    if !built {
        build::run(workspace, true)?;
    }
    let root = workspace.join("target/package");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let mut install = Command::new(build::binary(workspace, "release", "netpath"));
    install
        .args(["install", "--prefix", "/usr", "--root"])
        .arg(&root);
    check(&mut install)?;
    let begun = SystemTime::now();
    let mut deb = cargo(workspace);
    deb.args(["deb", "--no-build", "--package", "netpath"]);
    check(&mut deb)?;
    let package = newest(&build::binary(workspace, "debian", ""), begun)?;
    look_into(&package)?;
    try_out(workspace, &package)?;
    println!(
        "{} was installed into a copy of this system and removed again",
        package.display()
    );
    Ok(())
}

/// The package that was made since `begun`.
fn newest(folder: &Path, begun: SystemTime) -> Result<PathBuf> {
    let files = fs::read_dir(folder)
        .with_context(|| format!("cargo-deb left nothing in {}", folder.display()))?;
    let is_new = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "deb")
            && (path.metadata().and_then(|meta| meta.modified())).is_ok_and(|made| made >= begun)
    };
    let mut found = files.flatten().map(|file| file.path()).filter(is_new);
    found
        .next()
        .with_context(|| format!("cargo-deb left no package in {}", folder.display()))
}

/// Checks what is in the package.
fn look_into(package: &Path) -> Result<()> {
    let Some(dpkg_deb) = program("dpkg-deb") else {
        bail!("dpkg-deb looks into packages: install dpkg, or use a Debian machine");
    };
    let mut list = Command::new(dpkg_deb);
    list.arg("--contents").arg(package);
    let contents = capture(&mut list, PATIENCE)?.ok("dpkg-deb --contents")?;
    let paths: Vec<&str> = contents
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .map(|path| path.trim_start_matches("./"))
        .collect();
    match CONTENTS.iter().find(|path| !paths.contains(*path)) {
        Some(missing) => bail!("{} has no {missing}", package.display()),
        None => Ok(()),
    }
}

/// Installs the package into a copy of this system, and removes it.
fn try_out(workspace: &Path, package: &Path) -> Result<()> {
    ensure_privileges("trying the package in a copy of this system")?;
    let copy = workspace.join("target/package-trial");
    fs::create_dir_all(&copy)?;
    let mut trial = privileged("unshare");
    trial
        .args(["--mount", "--net", "--ipc", "--uts", "--pid", "--fork"])
        .args(["--kill-child", "sh", "-c", TRIAL, "sh"])
        .args([&copy, package]);
    let tried = capture(&mut trial, PATIENCE);
    fs::remove_dir(&copy)?;
    tried?.ok("installing and removing the package").map(drop)
}
