//! Finds the tools that compile the eBPF programs, and says how to call them.
//!
//! This file is compiled twice: as a module of `xtask`, which installs what is missing, and as a
//! module of `netpath/build.rs`, which needs it to be there. That is why it uses `std` only.
//!
//! Compiling for `bpfel-unknown-none` takes three things that have to fit each other:
//! a rustc that lets unstable flags through (for `-Z build-std=core`), the source of *its* core
//! library, and a bpf-linker whose LLVM can read the bitcode this rustc writes. Two kinds of
//! toolchain offer that, and the first one that is complete is taken:
//!
//! * rustup's `nightly` with the component `rust-src`;
//! * the distribution's own rustc, when it is recent enough and its source package is installed.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest rustc that compiles the workspace (`rust-version` in Cargo.toml).
pub const MIN_RUSTC: (u32, u32) = (1, 95);
/// The bpf-linker this project is built and tested with.
pub const LINKER_VERSION: &str = "0.13.0";
/// The newest LLVM that bpf-linker [`LINKER_VERSION`] can be built against.
pub const LINKER_NEWEST_LLVM: u32 = 23;
/// Where distributions install their rustc; never a rustup proxy.
pub const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";
/// The target of the programs. Every supported host is little-endian.
pub const TARGET: &str = "bpfel-unknown-none";
/// The package with the programs, and the name of its only binary.
pub const EBPF_PACKAGE: &str = "netpath-ebpf";

/// Who ships the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `nightly`, installed by rustup.
    Rustup,
    /// The distribution's rustc package; unstable flags need `RUSTC_BOOTSTRAP=1`.
    Distribution,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rustup => "rustup nightly",
            Self::Distribution => "the distribution's rustc",
        })
    }
}

/// A rustc that could compile the programs, with its library source.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// Who ships it.
    pub kind: Kind,
    /// The compiler itself, not a proxy.
    pub rustc: PathBuf,
    /// What it says of itself.
    pub version: RustcVersion,
}

/// A complete toolchain: nothing needs to be installed to build the programs.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// A bpf-linker that fits it.
    pub linker: PathBuf,
}

/// What is missing, worst first. The text goes after "eBPF toolchain: ".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No rustc of this kind, or one that is too old or unusable.
    Compiler(Kind, String),
    /// The rustc is there, the source of its library is not.
    Source(Kind, String),
    /// Compiler and source are there, a linker that fits is not.
    Linker(Kind, String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Compiler(kind, why) | Self::Source(kind, why) | Self::Linker(kind, why)) = self;
        write!(f, "{kind}: {why}")
    }
}

/// The first complete toolchain, or for each kind what it lacks.
pub fn find() -> Result<Toolchain, Vec<Missing>> {
    let mut lacks = Vec::new();
    for kind in [Kind::Rustup, Kind::Distribution] {
        match find_compiler(kind).and_then(|compiler| {
            let linker = find_linker(&compiler)?;
            Ok(Toolchain { compiler, linker })
        }) {
            Ok(toolchain) => return Ok(toolchain),
            Err(missing) => lacks.push(missing),
        }
    }
    Err(lacks)
}

/// The compiler of one kind, checked: recent enough, and its library source is there.
pub fn find_compiler(kind: Kind) -> Result<Compiler, Missing> {
    let lacks = |why: String| Missing::Compiler(kind, why);
    let rustc = match kind {
        // Ask for the file, do not run the proxy: `rustup run nightly` may start a download.
        Kind::Rustup => Command::new("rustup")
            .args(["which", "--toolchain", "nightly", "rustc"])
            .env("RUSTUP_AUTO_INSTALL", "0")
            .stdin(Stdio::null())
            .output()
            .ok()
            .filter(|output| output.status.success())
            .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
            .ok_or_else(|| lacks("not installed".into()))?,
        Kind::Distribution => PathBuf::from(DISTRIBUTION_RUSTC),
    };
    if !rustc.is_file() {
        return Err(lacks(format!("{} does not exist", rustc.display())));
    }
    let version = stdout_of(rustc_command(&rustc).arg("-vV"))
        .and_then(|text| RustcVersion::parse(&text))
        .ok_or_else(|| lacks(format!("`{} -vV` says no version", rustc.display())))?;
    if version.release < MIN_RUSTC {
        return Err(lacks(format!(
            "rustc {} is older than {}.{}",
            version.text, MIN_RUSTC.0, MIN_RUSTC.1
        )));
    }
    let sysroot = stdout_of(rustc_command(&rustc).args(["--print", "sysroot"]))
        .ok_or_else(|| lacks(format!("`{} --print sysroot` failed", rustc.display())))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    // build-std needs the lock file too; an incomplete package would fail only much later.
    for needed in ["core/src/lib.rs", "Cargo.lock"] {
        if !library.join(needed).is_file() {
            let why = format!(
                "rustc {} has no library source ({})",
                version.text,
                library.display()
            );
            return Err(Missing::Source(kind, why));
        }
    }
    Ok(Compiler {
        kind,
        rustc,
        version,
    })
}

/// A bpf-linker that reads what this compiler writes.
pub fn find_linker(compiler: &Compiler) -> Result<PathBuf, Missing> {
    let lacks = |why: String| Missing::Linker(compiler.kind, why);
    let Some(root) = linker_root() else {
        return Err(lacks("neither XDG_CACHE_HOME nor HOME is set".into()));
    };
    let ours = root.join("bin/bpf-linker");
    let why = if !ours.is_file() {
        format!("no bpf-linker in {}", root.display())
    } else if !runs(&ours) {
        // Typically libLLVM was removed or upgraded after the linker was built.
        format!(
            "{} is not bpf-linker {LINKER_VERSION}, or does not start",
            ours.display()
        )
    } else {
        match fs::read_to_string(root.join(".crates2.json"))
            .ok()
            .and_then(|t| linker_llvm(&t))
        {
            // LLVM reads bitcode of its own and of older versions.
            Some(llvm) if llvm >= compiler.version.llvm => return Ok(ours),
            Some(llvm) => format!(
                "{} is built with LLVM {llvm}, rustc {} writes LLVM {}",
                ours.display(),
                compiler.version.text,
                compiler.version.llvm
            ),
            None => format!("cannot tell which LLVM {} is built with", ours.display()),
        }
    };
    // The releases of bpf-linker carry the newest LLVM they support inside; nothing else that
    // may lie in PATH says which LLVM it has, so only the very version is trusted.
    if compiler.kind == Kind::Rustup
        && compiler.version.llvm <= LINKER_NEWEST_LLVM
        && let Some(found) = in_path("bpf-linker")
        && runs(&found)
    {
        return Ok(found);
    }
    Err(lacks(why))
}

/// Where `cargo xtask setup` installs bpf-linker; outlives `cargo clean`.
pub fn linker_root() -> Option<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("netpath/bpf-linker"))
}

impl Toolchain {
    /// One line for people.
    pub fn describe(&self) -> String {
        let Compiler {
            kind,
            rustc,
            version,
        } = &self.compiler;
        format!(
            "{kind} {} (LLVM {}, {}), bpf-linker {LINKER_VERSION} ({})",
            version.text,
            version.llvm,
            rustc.display(),
            self.linker.display()
        )
    }

    /// This compiler's clippy, if it is installed.
    pub fn cargo_clippy(&self) -> Option<PathBuf> {
        let bin = self.compiler.rustc.parent()?;
        let (driver, front) = (bin.join("clippy-driver"), bin.join("cargo-clippy"));
        (driver.is_file() && front.is_file()).then_some(front)
    }

    /// A command that runs `program` (a cargo or cargo's front end of clippy) such that it
    /// compiles for the BPF target; `verb` is its subcommand.
    ///
    /// `workspace` is the root of the work tree, `arch` the CPU the programs will run on (they
    /// see it as `bpf_target_arch`, it decides the layout of `pt_regs`).
    pub fn command(&self, program: &Path, verb: &str, workspace: &Path, arch: &str) -> Command {
        let mut command = Command::new(program);
        // What an outer cargo set for its own compiler, or the user for the host's programs,
        // must not reach this one: a different rustc, clippy as a wrapper, flags for the host's
        // linker, the library path of another toolchain.
        for (name, _) in env::vars_os() {
            if is_outer(&name) {
                command.env_remove(name);
            }
        }
        let mut flags = OsString::from(format!("--cfg=bpf_target_arch=\"{arch}\""));
        for flag in [
            "-Cdebuginfo=2",
            "-Clink-arg=--btf",
            // With it every store of more than a word becomes a call of a byte-wise `memset`.
            "-Clink-arg=--disable-expand-memcpy-in-order",
            "-Clinker=",
        ] {
            flags.push("\x1f");
            flags.push(flag);
        }
        flags.push(&self.linker);
        command
            .current_dir(workspace)
            .env("RUSTC", &self.compiler.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            // The workspace's release profile is the agent's; bpf-linker optimises the programs
            // as a whole anyway, and stripping would take the source of the BTF.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_STRIP", "none")
            .args([verb, "--package", EBPF_PACKAGE, "--bins", "--release"])
            .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
            .arg(target_dir(workspace))
            .stdin(Stdio::null());
        command
    }

    /// The cargo to use: the compiler's own where it has one (rustup), else the caller's.
    pub fn cargo(&self) -> PathBuf {
        if self.compiler.kind == Kind::Rustup {
            let own = self.compiler.rustc.with_file_name("cargo");
            if own.is_file() {
                return own;
            }
        }
        env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
    }
}

/// One directory for all profiles of the agent, so that core is compiled once; not the outer
/// cargo's directory, whose lock is held while the build script runs.
pub fn target_dir(workspace: &Path) -> PathBuf {
    workspace.join("target/ebpf")
}

/// The object that a build leaves behind.
pub fn object_path(workspace: &Path) -> PathBuf {
    target_dir(workspace)
        .join(TARGET)
        .join("release")
        .join(EBPF_PACKAGE)
}

/// What `rustc -vV` says, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RustcVersion {
    /// Major and minor.
    pub release: (u32, u32),
    /// Major version of the LLVM it writes bitcode with.
    pub llvm: u32,
    /// The release as printed.
    pub text: String,
}

impl RustcVersion {
    /// Reads the output of `rustc -vV`.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let release = field("release")?;
        let mut numbers = release.split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        let llvm = field("LLVM version")?.split('.').next()?.parse().ok()?;
        Some(Self {
            release: (major, minor),
            llvm,
            text: release.to_owned(),
        })
    }
}

/// Which LLVM a bpf-linker was built with, from what `cargo install` noted of it: the feature
/// `llvm-N`. The program itself does not say.
pub fn linker_llvm(crates2_json: &str) -> Option<u32> {
    let entry = crates2_json
        .split(&format!("\"bpf-linker {LINKER_VERSION} "))
        .nth(1)?;
    let features = entry.split("\"features\":[").nth(1)?.split(']').next()?;
    features
        .split(',')
        .filter_map(|feature| {
            feature
                .trim()
                .trim_matches('"')
                .strip_prefix("llvm-")?
                .parse()
                .ok()
        })
        .max()
}

/// Looks a program up in `PATH`.
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

fn is_outer(name: &OsString) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    // The jobserver and where cargo keeps its downloads are shared on purpose, and how to reach
    // the network (CARGO_HTTP_, CARGO_NET_, CARGO_REGISTRIES_...) is the user's word.
    [
        "CARGO_BUILD_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CLIPPY_",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
        || [
            "CARGO",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_INCREMENTAL",
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "LD_LIBRARY_PATH",
            "RUSTC",
            "RUSTC_BOOTSTRAP",
            "RUSTC_LINKER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTDOC",
            "RUSTDOCFLAGS",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ]
        .contains(&name)
}

fn rustc_command(rustc: &Path) -> Command {
    let mut command = Command::new(rustc);
    // Set by an outer cargo for another toolchain's libraries.
    command
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn runs(linker: &Path) -> bool {
    stdout_of(rustc_command(linker).arg("--version"))
        .is_some_and(|text| text.trim() == format!("bpf-linker {LINKER_VERSION}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stable_and_a_nightly_version() {
        let stable = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                      host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let parsed = RustcVersion::parse(stable).expect("a version");
        assert_eq!((parsed.release, parsed.llvm), ((1, 96), 22));
        let nightly = "release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        let parsed = RustcVersion::parse(nightly).expect("a version");
        assert_eq!(
            (parsed.release, parsed.text.as_str()),
            ((1, 97), "1.97.0-nightly")
        );
    }

    #[test]
    fn refuses_what_is_not_a_version() {
        for text in [
            "",
            "release: 1.96.0\n",
            "release: x.y\nLLVM version: 22\n",
            "error: no",
        ] {
            assert_eq!(RustcVersion::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn reads_the_linkers_llvm() {
        let json = r#"{"installs":{"bpf-linker 0.13.0 (registry+x)":{"version_req":"=0.13.0",
            "bins":["bpf-linker"],"features":["llvm-22"],"all_features":false}}}"#;
        assert_eq!(linker_llvm(json), Some(22));
        assert_eq!(linker_llvm(&json.replace("0.13.0", "0.9.1")), None);
        assert_eq!(linker_llvm("{}"), None);
    }

    #[test]
    fn oldest_rustc_is_the_one_the_workspace_states() {
        let manifest = include_str!("../../Cargo.toml");
        let expected = format!("rust-version = \"{}.{}\"", MIN_RUSTC.0, MIN_RUSTC.1);
        assert!(
            manifest.contains(&expected),
            "Cargo.toml does not say {expected}"
        );
    }

    #[test]
    fn scrubs_the_outer_cargo_but_not_the_network() {
        let outer = |name: &str| is_outer(&OsString::from(name));
        assert!(outer("RUSTC_WORKSPACE_WRAPPER") && outer("CARGO_PROFILE_DEV_OPT_LEVEL"));
        assert!(!outer("CARGO_HTTP_CAINFO") && !outer("CARGO_HOME") && !outer("PATH"));
        assert!(!outer("CARGO_MAKEFLAGS"));
    }
}
