//! Does this host have what netpath needs, and if not, how does one get it?

mod checks;

use anyhow::Result;
use serde::Serialize;

use crate::problem::invalid;

pub use checks::has_capability;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Something works worse, or will be needed by something else.
    Remark,
    /// netpath does not work here.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, unless all is well.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn remark(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Remark,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn missing(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Missing,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// # Errors
    /// It is missing: what, and what to do.
    pub fn result(&self) -> Result<()> {
        match self.verdict {
            Verdict::Missing => Err(invalid(format!(
                "{}{}",
                self.found,
                self.remedy
                    .as_ref()
                    .map(|remedy| format!("; {remedy}"))
                    .unwrap_or_default()
            ))),
            Verdict::Ok | Verdict::Remark => Ok(()),
        }
    }
}

/// What no agent can do without and that is quickly looked at.
pub fn required() -> Vec<Check> {
    vec![checks::privileges(), checks::kernel(), checks::btf()]
}

/// Everything.
pub fn all() -> Vec<Check> {
    vec![
        checks::kernel(),
        checks::btf(),
        checks::tcx(),
        checks::bpffs(),
        checks::privileges(),
        checks::jit(),
        checks::cgroup2(),
        checks::rp_filter(),
        checks::bpftool(),
        checks::docker_proxy(),
        checks::object(),
    ]
}
