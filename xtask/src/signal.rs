//! Ctrl-C and friends, turned into a flag that every wait looks at.
//!
//! Programs that are started here run in process groups of their own, so a terminal's Ctrl-C
//! reaches only this process; it stops them, cleans up and then ends.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static SHIELDED: AtomicBool = AtomicBool::new(false);
static INSTALLED: Once = Once::new();

extern "C" fn note(_signal: nix::libc::c_int) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// From now on an interrupt sets the flag instead of ending the process.
pub fn install() {
    INSTALLED.call_once(|| {
        let action = SigAction::new(
            SigHandler::Handler(note),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
            if let Err(error) = unsafe { sigaction(signal, &action) } {
                eprintln!("cannot catch {signal}: {error}");
            }
        }
    });
}

/// Whether to stop now.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst) && !SHIELDED.load(Ordering::SeqCst)
}

/// Cleaning up must not be interrupted by the interrupt that caused it, nor by an impatient
/// second one.
pub fn shield() {
    SHIELDED.store(true, Ordering::SeqCst);
}
