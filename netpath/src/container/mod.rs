//! Containers: processes with a network, a mount and a host name of their own.
//!
//! The agent prepares the network namespace; the *supervisor* (the `run` command itself, or
//! with `-d` a small [`shim`] process) starts the command in it, waits for it and writes
//! down its exit code. So a container is never a child of the agent and lives on when the
//! agent is restarted.

pub mod files;
pub mod lookup;
pub mod names;
pub mod process;
pub mod shim;
pub mod spawn;
pub mod supervise;
pub mod sysctls;
