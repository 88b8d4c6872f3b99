//! `netpath shim`: started by `run -d`, not by people.

use anyhow::Result;

use crate::container::shim;

pub fn run() -> Result<()> {
    shim::run()
}
