//! Installs the parts of the eBPF toolchain that [`toolchain::find`] does not find.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::apt::{self, Apt};
use crate::host::{ensure_privileges, program};
use crate::run::{Step, capture, log_file};
use crate::toolchain::{
    self, Compiler, Kind, LINKER_NEWEST_LLVM, LINKER_VERSION, MIN_RUSTC, Missing, Toolchain,
};

/// Compiling bpf-linker takes two minutes on two cores, downloads included.
const LINKER_LIMIT: Duration = Duration::from_secs(30 * 60);
const RUSTUP_LIMIT: Duration = Duration::from_secs(15 * 60);
const QUERY_LIMIT: Duration = Duration::from_secs(20);

/// A distribution's packages of one rustc: compiler, library source, clippy.
struct RustPackages {
    compiler: &'static str,
    source: &'static str,
    clippy: &'static str,
}

/// The first family that is recent enough is taken. Debian's stable releases keep an old
/// `rustc` and bring a current one, made for browsers, by the name of `rustc-web`.
const RUST_PACKAGES: [RustPackages; 2] = [
    RustPackages {
        compiler: "rustc-web",
        source: "rust-web-src",
        clippy: "rust-web-clippy",
    },
    RustPackages {
        compiler: "rustc",
        source: "rust-src",
        clippy: "rust-clippy",
    },
];

/// The complete toolchain; installs what is missing of it.
pub fn ensure(workspace: &Path, apt: &mut Apt<'_>) -> Result<Toolchain> {
    let lacks = match toolchain::find() {
        Ok(toolchain) => return Ok(toolchain),
        Err(lacks) => lacks,
    };
    for lack in &lacks {
        println!("toolchain  {lack}");
    }
    // A compiler that is there already is not replaced by another kind: only its linker is made.
    let present = lacks.iter().find_map(|lack| match lack {
        Missing::Linker(kind, _) => Some(*kind),
        Missing::Compiler(..) | Missing::Source(..) => None,
    });
    let kind = match present {
        Some(kind) => kind,
        None => install_compiler(workspace, apt)?,
    };
    let compiler = toolchain::find_compiler(kind)
        .map_err(|lack| anyhow!("{lack}, although its installation succeeded"))?;
    if toolchain::find_linker(&compiler).is_err() {
        install_linker(&compiler, workspace, apt)?;
    }
    toolchain::find().map_err(|lacks| {
        let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
        anyhow!("still no complete eBPF toolchain: {}", lacks.join("; "))
    })
}

/// Installs clippy for a distribution's rustc. Nothing but `lint` needs it, so that it cannot
/// be installed is a line, not a failure.
pub fn ensure_clippy(toolchain: &Toolchain, apt: &mut Apt<'_>) -> String {
    if let Some(clippy) = toolchain.cargo_clippy() {
        return clippy.display().to_string();
    }
    let none = format!(
        "none for {}, the programs will not be linted",
        toolchain.compiler.kind
    );
    if toolchain.compiler.kind == Kind::Rustup || !apt::is_here() {
        return none;
    }
    let fits = RUST_PACKAGES.iter().find(|family| {
        apt::candidate(family.clippy).and_then(|version| apt::major_minor(&version))
            == Some(toolchain.compiler.version.release)
    });
    let Some(family) = fits else { return none };
    match ensure_privileges("installing clippy")
        .and_then(|()| apt.install(&[family.clippy.to_owned()]))
    {
        Ok(()) => format!("installed {}", family.clippy),
        Err(error) => format!("{none} ({error})"),
    }
}

/// rustfmt and clippy of the cargo that runs this; rustup's minimal profile comes without.
pub fn ensure_components(workspace: &Path) -> Result<String> {
    let bin = env::var_os("CARGO").map(PathBuf::from);
    let bin = bin
        .as_deref()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/usr/bin"));
    let missing: Vec<&str> = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")]
        .into_iter()
        .filter(|(program, _)| !bin.join(program).is_file())
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(format!("rustfmt and clippy in {}", bin.display()));
    }
    if program("rustup").is_none() {
        return Ok(format!(
            "{} not in {}, `cargo xtask test` needs it: install your distribution's package",
            missing.join(" and "),
            bin.display()
        ));
    }
    Step {
        title: &format!("installing {}", missing.join(" and ")),
        log: log_file(workspace, "rustup"),
        limit: RUSTUP_LIMIT,
        advice: "check the network, then try `rustup component add rustfmt clippy`",
    }
    .run(
        Command::new("rustup")
            .args(["component", "add"])
            .args(&missing),
    )?;
    Ok(format!("installed {}", missing.join(" and ")))
}

fn install_compiler(workspace: &Path, apt: &mut Apt<'_>) -> Result<Kind> {
    if apt::is_here() {
        ensure_privileges("installing packages")?;
        // Before looking: a machine's lists may be older than the release that is wanted.
        apt.update();
        let recent = RUST_PACKAGES.iter().find(|family| {
            apt::candidate(family.compiler)
                .and_then(|version| apt::major_minor(&version))
                .is_some_and(|version| version >= MIN_RUSTC)
        });
        if let Some(family) = recent {
            apt.install(&[family.compiler, family.source].map(str::to_owned))?;
            return Ok(Kind::Distribution);
        }
    }
    if program("rustup").is_none() {
        bail!(
            "no rustc {}.{} with library source can be installed here: either install your \
             distribution's packages of it (rustc and rust-src), or rustup (https://rustup.rs) and \
             then `rustup toolchain install nightly --profile minimal --component rust-src`",
            MIN_RUSTC.0,
            MIN_RUSTC.1
        );
    }
    Step {
        title: "installing rustup's nightly with rust-src",
        log: log_file(workspace, "rustup"),
        limit: RUSTUP_LIMIT,
        advice: "check the network, then try `rustup toolchain install nightly` by hand",
    }
    .run(Command::new("rustup").args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
        "--component",
        "clippy",
    ]))?;
    Ok(Kind::Rustup)
}

/// Builds bpf-linker against an LLVM that can read the compiler's bitcode.
fn install_linker(compiler: &Compiler, workspace: &Path, apt: &mut Apt<'_>) -> Result<()> {
    let root = toolchain::linker_root().context("neither XDG_CACHE_HOME nor HOME is set")?;
    let (llvm, config) = find_llvm(compiler, apt)?;
    if program("c++").is_none() && apt::is_here() {
        ensure_privileges("installing packages")?;
        apt.install(&["g++".to_owned()])?;
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut install = Command::new(cargo);
    install
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--force",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
            "--root",
        ])
        .arg(&root)
        // bpf-linker's build script takes the first llvm-config in PATH.
        .env("PATH", path_with(&config)?)
        .env_remove("CARGO_TARGET_DIR");
    Step {
        title: &format!("building bpf-linker {LINKER_VERSION} with LLVM {llvm}"),
        log: log_file(workspace, "bpf-linker"),
        limit: LINKER_LIMIT,
        advice: "see the end of the output above; a C++ compiler and LLVM's -dev package are needed",
    }
    .run(&mut install)
}

/// An LLVM to link with, not older than the compiler's: its major version and its llvm-config.
fn find_llvm(compiler: &Compiler, apt: &mut Apt<'_>) -> Result<(u32, PathBuf)> {
    let fitting = || compiler.version.llvm..=LINKER_NEWEST_LLVM;
    if let Some(found) = fitting().find_map(installed_llvm) {
        return Ok(found);
    }
    if apt::is_here() {
        ensure_privileges("installing packages")?;
        apt.update();
        for llvm in fitting() {
            let package = format!("llvm-{llvm}-dev");
            if apt::candidate(&package).is_some() {
                apt.install(&[package])?;
                return installed_llvm(llvm)
                    .with_context(|| format!("LLVM {llvm} has no llvm-config"));
            }
        }
    }
    bail!(
        "no LLVM from {} to {LINKER_NEWEST_LLVM} to build bpf-linker with: install LLVM's \
         development package of that version, or put the program bpf-linker {LINKER_VERSION} from \
         https://github.com/aya-rs/bpf-linker/releases into PATH (for rustup's nightly)",
        compiler.version.llvm
    )
}

fn installed_llvm(llvm: u32) -> Option<(u32, PathBuf)> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-config"));
    let candidates = std::iter::once(debian).chain(program("llvm-config"));
    candidates.into_iter().find_map(|config| {
        let said = capture(Command::new(&config).arg("--version"), QUERY_LIMIT).ok()?;
        let major: u32 = said.stdout.split('.').next()?.trim().parse().ok()?;
        // The libraries to link with come in the development package; the program may not.
        let include = capture(Command::new(&config).arg("--includedir"), QUERY_LIMIT).ok()?;
        let developed = Path::new(include.stdout.trim())
            .join("llvm-c/Core.h")
            .is_file();
        (major == llvm && developed).then_some((llvm, config))
    })
}

fn path_with(llvm_config: &Path) -> Result<OsString> {
    let first = llvm_config
        .parent()
        .context("llvm-config is in no directory")?
        .to_path_buf();
    let rest = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(first).chain(env::split_paths(&rest)))
        .context("PATH has a directory that cannot be passed on")
}
