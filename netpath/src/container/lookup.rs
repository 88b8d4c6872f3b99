//! Where a command is: what a shell does before it says "not found".

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Exit code of a command that was not found, by the shells' convention.
pub const NOT_FOUND: u8 = 127;
/// Exit code of a command that cannot be executed, by the shells' convention.
pub const NOT_EXECUTABLE: u8 = 126;

/// Why a command cannot run, with its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// [`NOT_FOUND`] or [`NOT_EXECUTABLE`].
    pub code: u8,
    /// A sentence.
    pub message: String,
}

/// The file that `program` names: itself if it has a slash, else the first executable of
/// this name in the folders of `path`.
///
/// # Errors
/// There is none, or it cannot be executed.
pub fn find(program: &str, path: Option<&OsStr>) -> Result<PathBuf, Unusable> {
    let not_executable = |file: &Path| Unusable {
        code: NOT_EXECUTABLE,
        message: format!("{} cannot be executed", file.display()),
    };
    if program.is_empty() {
        return Err(Unusable {
            code: NOT_FOUND,
            message: "the command is empty".into(),
        });
    }
    if program.contains('/') {
        let file = PathBuf::from(program);
        return match is_executable(&file) {
            Some(true) => Ok(file),
            Some(false) => Err(not_executable(&file)),
            None => Err(Unusable {
                code: NOT_FOUND,
                message: format!("there is no file {program} to run"),
            }),
        };
    }
    // What execvp does without PATH.
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    let mut hopeless = None;
    for file in std::env::split_paths(path).map(|folder| folder.join(program)) {
        match is_executable(&file) {
            Some(true) => return Ok(file),
            Some(false) => hopeless = hopeless.or(Some(not_executable(&file))),
            None => {}
        }
    }
    Err(hopeless.unwrap_or_else(|| Unusable {
        code: NOT_FOUND,
        message: format!("command {program} was not found in PATH"),
    }))
}

/// `None` if there is no such file.
fn is_executable(file: &Path) -> Option<bool> {
    let meta = fs::metadata(file).ok()?;
    Some(meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_a_shell() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("plain"), "").unwrap();
        fs::write(path.join("tool"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(path.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        let search = Some(path.as_os_str());
        assert_eq!(find("tool", search).unwrap(), path.join("tool"));
        assert_eq!(find("plain", search).unwrap_err().code, NOT_EXECUTABLE);
        assert_eq!(find("nothing", search).unwrap_err().code, NOT_FOUND);
        assert_eq!(find("/no/such/file", search).unwrap_err().code, NOT_FOUND);
        assert_eq!(find("/tmp/", search).unwrap_err().code, NOT_EXECUTABLE);
        assert_eq!(find("", search).unwrap_err().code, NOT_FOUND);
        assert!(find("sh", None).is_ok());
    }
}
