//! netpath as a part of a system: its binary, its service, its manual, and the file by which
//! Docker finds it.
//!
//! What was put in place is written down in a list, so that another version can take it away.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::agent::settings::{DOCKER_SOCKET, RUN_DIR};
use crate::problem::{conflict, invalid, not_found};

/// The service's unit; `@BIN@` is the folder of the binary.
const UNIT: &str = include_str!("netpath.service");
/// Its name.
pub const SERVICE: &str = "netpath.service";

/// A file to put in place.
struct Piece {
    /// Where, below the root.
    path: PathBuf,
    content: Vec<u8>,
    mode: u32,
}

/// Where things are to be.
#[derive(Clone, Debug)]
pub struct Place {
    /// The root of the system: `/`, or a folder that will be packed or mounted as one.
    pub root: PathBuf,
    /// `/usr/local`, or `/usr` for a package.
    pub prefix: PathBuf,
}

impl Place {
    /// Checks it.
    ///
    /// # Errors
    /// A path is relative, or would lead out of the root.
    pub fn new(root: &Path, prefix: &Path) -> Result<Self> {
        let dots = |path: &Path| path.components().any(|c| c.as_os_str() == "..");
        if !prefix.is_absolute() || dots(prefix) {
            return Err(invalid(format!(
                "the prefix {} makes no sense, write a path like /usr/local",
                prefix.display()
            )));
        }
        let root = std::path::absolute(root)
            .with_context(|| format!("{} is not a usable path", root.display()))?;
        Ok(Self {
            root,
            prefix: prefix.to_owned(),
        })
    }

    /// Whether this is the system that runs.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Whether a package manager owns the prefix: other folders are then the usual ones.
    fn is_packaged(&self) -> bool {
        self.prefix == Path::new("/usr")
    }

    fn list(&self) -> PathBuf {
        self.prefix.join("share/netpath/installed")
    }

    /// A path of the system, as it is reached from here.
    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn pieces(&self, manual: Vec<(String, Vec<u8>)>) -> Result<Vec<Piece>> {
        let bin = self.prefix.join("bin");
        let (units, plugins) = if self.is_packaged() {
            ("/usr/lib/systemd/system", "/usr/lib/docker/plugins")
        } else {
            ("/etc/systemd/system", "/etc/docker/plugins")
        };
        let own = fs::read("/proc/self/exe").context("cannot read this program")?;
        let unit = UNIT.replace("@BIN@", &bin.display().to_string());
        let spec = format!("unix://{RUN_DIR}/{DOCKER_SOCKET}\n");
        let mut pieces = vec![
            Piece {
                path: bin.join("netpath"),
                content: own,
                mode: 0o755,
            },
            Piece {
                path: Path::new(units).join(SERVICE),
                content: unit.into_bytes(),
                mode: 0o644,
            },
            Piece {
                path: Path::new(plugins).join("netpath.spec"),
                content: spec.into_bytes(),
                mode: 0o644,
            },
        ];
        let pages = self.prefix.join("share/man/man1");
        pieces.extend(manual.into_iter().map(|(name, content)| Piece {
            path: pages.join(name),
            content,
            mode: 0o644,
        }));
        Ok(pieces)
    }
}

/// Puts everything in place, with the pages of the manual by file name; the paths. What an
/// earlier version put there is replaced, and what only that had is removed.
///
/// # Errors
/// A file cannot be written; those before it are in place.
pub fn install(place: &Place, manual: Vec<(String, Vec<u8>)>) -> Result<Vec<PathBuf>> {
    let pieces = place.pieces(manual)?;
    let before = installed(place)?;
    let mut paths: Vec<PathBuf> = pieces.iter().map(|piece| piece.path.clone()).collect();
    paths.push(place.list());
    // The list comes first: what is half in place can be taken away.
    let mut all = paths.clone();
    all.extend(before.iter().filter(|path| !paths.contains(path)).cloned());
    write_list(place, &all)?;
    for piece in &pieces {
        write(&place.inside(&piece.path), &piece.content, piece.mode)?;
    }
    for path in before.iter().filter(|path| !paths.contains(path)) {
        remove(&place.inside(path))?;
    }
    write_list(place, &paths)?;
    reload(place);
    Ok(paths)
}

/// Ends the service, if there is one.
///
/// # Errors
/// systemd's own.
pub fn stop(place: &Place) -> Result<()> {
    let unit = installed(place)?
        .into_iter()
        .find(|path| path.ends_with(SERVICE));
    let is_there = unit.is_some_and(|unit| place.inside(&unit).exists());
    if is_there && has_systemd(place) {
        systemctl(&["disable", "--now", SERVICE])?;
    }
    Ok(())
}

/// Takes everything away that [`install`] put in place; the paths.
///
/// # Errors
/// Nothing is there, or a file cannot be removed.
pub fn uninstall(place: &Place) -> Result<Vec<PathBuf>> {
    let mut paths = installed(place)?;
    if paths.is_empty() {
        return Err(not_found(format!(
            "netpath is not installed in {} (\"netpath install\" leaves a list in {})",
            place.inside(&place.prefix).display(),
            place.inside(&place.list()).display()
        )));
    }
    // The list goes last, so that what failed can be tried again.
    paths.retain(|path| *path != place.list());
    paths.push(place.list());
    for path in &paths {
        remove(&place.inside(path))?;
        remove_empty_folders(place, path);
    }
    reload(place);
    Ok(paths)
}

/// What the list says is there.
fn installed(place: &Place) -> Result<Vec<PathBuf>> {
    let path = place.inside(&place.list());
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let paths: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    let strange = |path: &&PathBuf| {
        !path.is_absolute() || path.components().any(|part| part.as_os_str() == "..")
    };
    match paths.iter().find(strange) {
        Some(strange) => Err(conflict(format!(
            "the list {} is damaged: {} is no path of a file of netpath's",
            path.display(),
            strange.display()
        ))),
        None => Ok(paths),
    }
}

fn write_list(place: &Place, paths: &[PathBuf]) -> Result<()> {
    let lines: String = paths
        .iter()
        .map(|path| format!("{}\n", path.display()))
        .collect();
    write(&place.inside(&place.list()), lines.as_bytes(), 0o644)
}

/// Writes a file in one step: a program that runs is replaced under its process.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let folder = path.parent().context("a file needs a folder")?;
    fs::create_dir_all(folder).with_context(failed)?;
    let name = path.file_name().context("a file needs a name")?;
    let draft = folder.join(format!(".{}.new", name.to_string_lossy()));
    let _ = fs::remove_file(&draft);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(content)?;
            // Whatever the umask is.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.with_context(failed)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes folders that have nothing in them any more, up to those that every system has.
fn remove_empty_folders(place: &Place, path: &Path) {
    let ours = ["netpath", "plugins", "docker"];
    for folder in path.ancestors().skip(1) {
        let name = folder.file_name().unwrap_or_default();
        if !ours.iter().any(|own| name == *own) || fs::remove_dir(place.inside(folder)).is_err() {
            return;
        }
    }
}

fn has_systemd(place: &Place) -> bool {
    // sd_booted(3).
    place.is_live() && Path::new("/run/systemd/system").is_dir()
}

/// Has systemd read its units anew, where there is one.
fn reload(place: &Place) {
    if has_systemd(place)
        && let Err(error) = systemctl(&["daemon-reload"])
    {
        log::warn!("{error:#}");
    }
}

fn systemctl(args: &[&str]) -> Result<()> {
    let ran = Command::new("systemctl")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("cannot call systemctl")?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(conflict(format!(
        "\"systemctl {}\" failed: {}",
        args.join(" "),
        said.trim().replace('\n', "; ")
    )))
}
