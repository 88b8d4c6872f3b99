//! `netpath doctor`

use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use crate::doctor::{self, Verdict};
use crate::output::{Format, print, print_json};

pub fn run(context: &Context) -> Result<ExitCode> {
    let checks = doctor::all();
    if context.output == Format::Json {
        print_json(&checks)?;
    } else {
        let mut text = String::new();
        for check in &checks {
            let mark = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Remark => "note",
                Verdict::Missing => "MISSING",
            };
            text.push_str(&format!("{mark:<8} {:<11} {}\n", check.name, check.found));
            if let Some(remedy) = &check.remedy {
                text.push_str(&format!("{:21}{remedy}\n", ""));
            }
        }
        print(&text)?;
    }
    let missing = checks.iter().any(|check| check.verdict == Verdict::Missing);
    Ok(if missing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
