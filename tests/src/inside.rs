//! Sockets in other network namespaces, without a process for each.

use std::fs::File;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Calls `f` in a network namespace, given by its file. Sockets that are made there stay in it,
/// wherever they are used later.
#[track_caller]
pub fn inside<T: Send>(netns: &str, f: impl FnOnce() -> T + Send) -> T {
    let file = File::open(netns).unwrap_or_else(|error| panic!("{netns}: {error}"));
    // A thread of its own: it ends with its namespace.
    let result = thread::scope(|scope| {
        let entered = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("a namespace to enter");
            f()
        });
        entered.join()
    });
    match result {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
