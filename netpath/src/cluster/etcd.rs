//! Talking to etcd: one member at a time, each call with an end.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use etcd_client::{
    Certificate, Client, ConnectOptions, Error, EventType, GetOptions, Identity, KeyValue,
    TlsOptions, WatchOptions, WatchResponse, WatchStream,
};

use super::settings::Settings;
use super::state::Change;
use crate::problem::invalid;

/// How long a call may take. A member that has lost its leader answers as fast as any other.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// A connection that is silent for this long is asked for a sign of life. etcd hangs up on
/// those who ask more often than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(6);
/// How long the sign may take.
const PING_PATIENCE: Duration = Duration::from_secs(4);
/// Keys that are read at once.
const PAGE: i64 = 2000;
/// Bytes of one answer or of one set of events.
const LARGEST: usize = 64 << 20;

/// How to reach the store: its options, with the files read.
#[derive(Clone)]
pub struct Access {
    endpoints: Vec<String>,
    options: ConnectOptions,
    scheme: &'static str,
    /// The member that comes next.
    next: usize,
}

impl Access {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// One cannot be read, or is none of its kind.
    pub fn new(settings: &Settings) -> Result<Self> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING_EVERY, PING_PATIENCE)
            .with_keep_alive_while_idle(true)
            // A member that is cut off from the others must say so, not wait.
            .with_require_leader(true);
        let mut scheme = "http";
        if let Some(tls) = &settings.tls {
            scheme = "https";
            let ca = read_pem(&tls.ca, "cluster-ca", "CERTIFICATE")?;
            let mut wanted = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
            if let Some((cert, key)) = &tls.identity {
                let cert = read_pem(cert, "cluster-cert", "CERTIFICATE")?;
                let key = read_pem(key, "cluster-key", "PRIVATE KEY")?;
                wanted = wanted.identity(Identity::from_pem(cert, key));
            }
            options = options.with_tls(wanted);
        }
        if let Some((user, file)) = &settings.user {
            let password = fs::read_to_string(file).map_err(|error| {
                invalid(format!(
                    "cannot read cluster-password-file {}: {error}",
                    file.display()
                ))
            })?;
            let password = password.trim_end_matches(['\r', '\n']);
            options = options
                .with_user(user, password)
                .with_auto_token_refresh(true);
        }
        Ok(Self {
            endpoints: settings.endpoints.clone(),
            options,
            scheme,
            next: 0,
        })
    }

    /// A client of one member, the next one at each call. Whether the member is there shows
    /// with the first call.
    ///
    /// # Errors
    /// User and password are refused, or the member is not there.
    pub async fn connect(&mut self) -> Result<Client> {
        let endpoint = &self.endpoints[self.next % self.endpoints.len()];
        self.next = self.next.wrapping_add(1);
        let url = format!("{}://{endpoint}", self.scheme);
        let connecting = Client::connect([url], Some(self.options.clone()));
        in_time(connecting).await
    }
}

/// A file that must have a part of a kind in it: TLS would only say that something is wrong.
fn read_pem(path: &Path, flag: &str, kind: &str) -> Result<Vec<u8>> {
    let read = fs::read(path);
    let bytes =
        read.map_err(|error| invalid(format!("cannot read {flag} {}: {error}", path.display())))?;
    let text = String::from_utf8_lossy(&bytes);
    let is_part = |line: &str| line.starts_with("-----BEGIN ") && line.contains(kind);
    if !text.lines().any(is_part) {
        return Err(invalid(format!(
            "{flag} {} has no {} in PEM form",
            path.display(),
            kind.to_lowercase()
        )));
    }
    Ok(bytes)
}

/// A call that ends in time, and its error in words.
///
/// # Errors
/// Those of the call, and that it took too long.
pub async fn in_time<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(result) => result.map_err(in_words),
        Err(_) => Err(anyhow!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// An error of the client as part of a sentence.
pub fn in_words(error: Error) -> anyhow::Error {
    let text = match &error {
        Error::GRpcStatus(status) => {
            let message = status.message().trim();
            // What the transport says is in the causes.
            let cause = causes(status);
            match (message.is_empty(), cause.is_empty()) {
                (_, false) => cause,
                (false, true) => message.to_owned(),
                (true, true) => status.code().description().to_owned(),
            }
        }
        other => {
            let cause = causes(other);
            if cause.is_empty() {
                other.to_string()
            } else {
                cause
            }
        }
    };
    anyhow!(text)
}

/// The last cause of an error, which says most: "connection refused".
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = None;
    let mut source = error.source();
    while let Some(cause) = source {
        last = Some(cause.to_string());
        source = cause.source();
    }
    last.unwrap_or_default()
}

/// All keys of a folder at one revision, and the revision.
///
/// # Errors
/// The store cannot be read.
pub async fn list(client: &Client, prefix: &str) -> Result<(Vec<Change>, i64)> {
    let mut kv = client.kv_client().max_decoding_message_size(LARGEST);
    let mut found = Vec::new();
    let mut revision = 0;
    let mut from = prefix.as_bytes().to_vec();
    let end = prefix_end(prefix);
    loop {
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(PAGE)
            .with_revision(revision);
        let mut answer = in_time(kv.get(from.clone(), Some(options))).await?;
        if revision == 0 {
            revision = answer.header().map_or(0, |header| header.revision());
        }
        let more = answer.more();
        let page = answer.take_kvs();
        if let Some(last) = page.last() {
            from = last.key().to_vec();
            from.push(0);
        }
        found.extend(page.iter().map(change_of));
        if !more || page.is_empty() {
            return Ok((found, revision));
        }
    }
}

/// The first key behind a folder.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // A folder ends in '/', which has a successor.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn change_of(kv: &KeyValue) -> Change {
    Change {
        // A key that is no text is none of ours, and is named as such.
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: Some(kv.value().to_vec()),
        revision: kv.mod_revision(),
        lease: kv.lease(),
    }
}

/// Watches a folder from a revision on.
///
/// # Errors
/// The store cannot be asked.
pub async fn watch(client: &Client, prefix: &str, from: i64) -> Result<WatchStream> {
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(from)
        .with_progress_notify();
    let mut watcher = client.watch_client().max_decoding_message_size(LARGEST);
    in_time(watcher.watch(prefix, Some(options))).await
}

/// What a message of a watch says.
pub enum Told {
    /// These keys changed, up to this revision.
    Changes(Vec<Change>, i64),
    /// The history that was asked for is compacted: all has to be read again.
    Compacted,
}

/// Reads a message of a watch.
///
/// # Errors
/// The store has ended the watch.
pub fn read_message(message: &WatchResponse) -> Result<Told> {
    if message.compact_revision() > 0 {
        return Ok(Told::Compacted);
    }
    if message.canceled() {
        return Err(anyhow!("the watch was ended: {}", message.cancel_reason()));
    }
    let changes = message.events().iter().filter_map(|event| {
        let kv = event.kv()?;
        let mut change = change_of(kv);
        if event.event_type() == EventType::Delete {
            change.value = None;
        }
        Some(change)
    });
    let revision = message.header().map_or(0, |header| header.revision());
    Ok(Told::Changes(changes.collect(), revision))
}

/// Grants a lease and returns its number.
///
/// # Errors
/// The store cannot be written.
pub async fn grant(client: &Client, seconds: u32) -> Result<i64> {
    let mut leases = client.lease_client();
    let granted = in_time(leases.grant(seconds.into(), None)).await;
    Ok(granted.context("cannot get a lease")?.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_ends_before_its_neighbour() {
        assert_eq!(prefix_end("/netpath/v1/"), b"/netpath/v10");
    }

    #[test]
    fn files_are_of_their_kind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let error = read_pem(&path, "cluster-ca", "CERTIFICATE").unwrap_err();
        assert!(error.to_string().starts_with("cannot read cluster-ca"));
        fs::write(&path, "hello").unwrap();
        let error = read_pem(&path, "cluster-ca", "CERTIFICATE").unwrap_err();
        assert!(error.to_string().contains("has no certificate in PEM"));
        fs::write(&path, "-----BEGIN RSA PRIVATE KEY-----\n").unwrap();
        assert!(read_pem(&path, "cluster-key", "PRIVATE KEY").is_ok());
    }
}
