//! Compiles the eBPF programs and hands the object to the crate.
//!
//! The crate embeds it by `aya::include_bytes_aligned!(env!("NETPATH_EBPF_OBJECT"))`; the tools
//! it was made with are in `NETPATH_EBPF_TOOLCHAIN`.

#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest, to install what is missing")]
mod toolchain;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

fn main() {
    if let Err(problem) = run() {
        // Not a panic: the message is meant for a person, a backtrace would hide it.
        eprintln!("error: {problem}");
        process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.parent().ok_or("the crate is not in a workspace")?;
    let out = PathBuf::from(variable("OUT_DIR")?).join("netpath-ebpf.o");
    if variable("CARGO_CFG_TARGET_ENDIAN")? != "little" {
        return Err("netpath runs on little-endian machines only".into());
    }
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let arch = if arch.starts_with("riscv64") {
        "riscv64"
    } else {
        &arch
    };

    for path in [
        "netpath-ebpf",
        "netpath-common",
        "xtask/src/toolchain.rs",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo:rerun-if-changed={}", workspace.join(path).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    for name in ["HOME", "XDG_CACHE_HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }

    let toolchain = toolchain::find().map_err(|lacks| {
        let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
        format!(
            "no toolchain for the eBPF programs is complete, run `cargo xtask setup` to install \
             one ({})",
            lacks.join("; ")
        )
    })?;
    // A new compiler or linker makes a new object.
    println!(
        "cargo:rerun-if-changed={}",
        toolchain.compiler.rustc.display()
    );
    println!("cargo:rerun-if-changed={}", toolchain.linker.display());

    build(&toolchain, workspace, arch, &out)?;
    println!("cargo:rustc-env=NETPATH_EBPF_OBJECT={}", out.display());
    println!(
        "cargo:rustc-env=NETPATH_EBPF_TOOLCHAIN={}",
        toolchain.describe()
    );
    Ok(())
}

fn build(
    toolchain: &toolchain::Toolchain,
    workspace: &Path,
    arch: &str,
    out: &Path,
) -> Result<(), String> {
    let directory = toolchain::target_dir(workspace);
    let failed =
        |what: &str, error: std::io::Error| format!("{what} {}: {error}", directory.display());
    fs::create_dir_all(&directory).map_err(|error| failed("cannot create", error))?;
    // Two profiles (or cargo and an editor) may build at once. Cargo's own lock ends with its
    // run; this one covers the copy as well, so that nobody copies a half-written object.
    let lock = File::create(directory.join("object.lock"))
        .map_err(|error| failed("cannot write to", error))?;
    lock.lock().map_err(|error| failed("cannot lock", error))?;

    let mut cargo = toolchain.command(&toolchain.cargo(), "build", workspace, arch);
    let output = cargo
        .output()
        .map_err(|error| format!("cannot start {}: {error}", toolchain.cargo().display()))?;
    if !output.status.success() {
        // Cargo shows a failed build script's stderr as it is: rustc's own messages.
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        return Err(format!(
            "the eBPF programs do not compile, see above; the command was\n  {}",
            shown(&cargo)
        ));
    }
    // Of a good build only the warnings are worth a line, and these must not be lost.
    for line in warnings(&String::from_utf8_lossy(&output.stderr)) {
        println!("cargo:warning={line}");
    }
    let object = toolchain::object_path(workspace);
    fs::copy(&object, out)
        .map_err(|error| {
            format!(
                "cannot copy {} to {}: {error}",
                object.display(),
                out.display()
            )
        })
        .map(drop)
}

/// The paragraphs of cargo's output that begin with `warning`.
fn warnings(stderr: &str) -> impl Iterator<Item = &str> {
    stderr
        .split("\n\n")
        .filter(|part| part.trim_start().starts_with("warning"))
        .flat_map(str::lines)
}

/// The command as a person would type it, with the part of the environment that counts.
fn shown(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| {
            let value = value?.to_string_lossy().replace('\x1f', "'$'\\x1f''");
            Some(format!("{}='{value}'", name.to_string_lossy()))
        })
        .collect();
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
