//! Settings under `/proc/sys/net` of the calling thread's network namespace.

use std::fs;
use std::io;

use anyhow::{Context, Result};

/// Writes a setting; false if this kernel does not have it (IPv6 may be switched off).
///
/// # Errors
/// It exists and cannot be written.
pub fn set(path: &str, value: &str) -> Result<bool> {
    // The path is resolved in the namespace of the thread that opens it.
    match fs::write(format!("/proc/sys/net/{path}"), value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => {
            let name = path.replace('/', ".");
            Err(error).with_context(|| format!("cannot set net.{name} to {value}"))
        }
    }
}

/// Reads a setting.
pub fn get(path: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?;
    Some(text.trim().to_owned())
}
