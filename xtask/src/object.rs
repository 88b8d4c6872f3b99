//! `cargo xtask object`: what is in the compiled eBPF object.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::check;
use crate::host::program;
use crate::run::capture;
use crate::toolchain::{self, Toolchain};

const LIMIT: Duration = Duration::from_secs(60);

/// Builds the object if need be, then prints its path, sections and programs.
pub fn run(workspace: &Path, toolchain: &Toolchain) -> Result<()> {
    let mut build = toolchain.command(&toolchain.cargo(), "build", workspace, env::consts::ARCH);
    check(build.arg("--quiet"))?;
    let object = toolchain::object_path(workspace);
    let size = fs::metadata(&object)
        .with_context(|| format!("no object at {}", object.display()))?
        .len();
    println!("{} ({size} bytes)", object.display());
    let Some(objdump) = objdump(toolchain) else {
        println!("no llvm-objdump: install LLVM's tools to see sections and programs");
        return Ok(());
    };
    let headers =
        capture(Command::new(&objdump).arg("-h").arg(&object), LIMIT)?.ok("llvm-objdump")?;
    println!("\nsections:");
    for (name, bytes) in sections(&headers) {
        println!("  {name:<24} {bytes:>8} bytes");
    }
    let code = capture(
        Command::new(&objdump)
            .args(["-d", "-C", "--no-show-raw-insn"])
            .arg(&object),
        LIMIT,
    )?
    .ok("llvm-objdump")?;
    println!("\nfunctions (the kernel counts instructions of 8 bytes; a 64-bit load is two):");
    for function in functions(&code) {
        println!(
            "  {:<12} {:>6}  {}",
            function.section, function.instructions, function.name
        );
    }
    Ok(())
}

/// The one of the compiler's LLVM; another may not know its newest instructions.
fn objdump(toolchain: &Toolchain) -> Option<PathBuf> {
    let llvm = toolchain.compiler.version.llvm;
    let own = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-objdump"));
    if own.is_file() {
        return Some(own);
    }
    program(&format!("llvm-objdump-{llvm}")).or_else(|| program("llvm-objdump"))
}

/// Name and size of the sections that are loaded: debug information and tables are left out.
fn sections(headers: &str) -> Vec<(&str, u64)> {
    headers
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            fields.next()?.parse::<u32>().ok()?;
            let name = fields.next()?;
            let bytes = u64::from_str_radix(fields.next()?, 16).ok()?;
            let internal = [".debug", ".rel", ".strtab", ".symtab", ".llvm"];
            (bytes > 0 && !internal.iter().any(|prefix| name.starts_with(prefix)))
                .then_some((name, bytes))
        })
        .collect()
}

/// A function and how many instructions the kernel counts for it.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    section: String,
    name: String,
    instructions: u64,
}

fn functions(disassembly: &str) -> Vec<Function> {
    let mut section = String::new();
    let mut found: Vec<Function> = Vec::new();
    for line in disassembly.lines() {
        if let Some(name) = line.strip_prefix("Disassembly of section ") {
            section = name.trim_end_matches(':').to_owned();
        } else if let Some((_, name)) = line
            .strip_suffix(">:")
            .and_then(|label| label.split_once(" <"))
        {
            // Labels of basic blocks are part of the function they are in.
            if !name.starts_with("LBB") {
                found.push(Function {
                    section: section.clone(),
                    name: name.to_owned(),
                    instructions: 0,
                });
            }
        } else if line.starts_with([' ', '\t'])
            && line.contains(':')
            && let Some(function) = found.last_mut()
        {
            function.instructions += if line.contains(" ll") { 2 } else { 1 };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_instructions() {
        let text = "
Disassembly of section classifier:

0000000000000000 <egress>:
       0:\tw1 = 0x0
       1:\tr1 = 0x0 ll
       3:\tif r0 == 0x0 goto +0x5 <LBB0_1>

0000000000000020 <LBB0_1>:
       4:\texit
";
        let expected = Function {
            section: "classifier".into(),
            name: "egress".into(),
            instructions: 5,
        };
        assert_eq!(functions(text), [expected]);
    }

    #[test]
    fn leaves_debug_sections_out() {
        let text = "Idx Name  Size VMA Type\n  0  00000000 0\n  3 classifier 00000080 00 TEXT\n\
                    6 .debug_loc 00000409 00 DEBUG\n 12 .BTF 00001029 00\n";
        assert_eq!(sections(text), [("classifier", 0x80), (".BTF", 0x1029)]);
    }
}
