//! Tells when devices or addresses change.

use anyhow::{Context, Result};
use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

/// Wakes the receiver after devices or addresses of the calling thread's namespace have
/// changed. What changed is not told: whoever is woken looks at everything, so that a
/// message the kernel had no room for does no harm.
///
/// # Errors
/// The socket cannot be made.
pub fn watch() -> Result<mpsc::Receiver<()>> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, _, mut messages) =
        rtnetlink::new_multicast_connection(&groups).context("cannot watch network devices")?;
    tokio::spawn(connection);
    // One pending wake-up says as much as many.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while messages.next().await.is_some() {
            if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                return;
            }
        }
    });
    Ok(receiver)
}
