//! Addresses from a DHCP server of the physical network.
//!
//! The client is busybox's udhcpc: it is in the package that nearly every distribution has (and
//! in the images that people debug with), is maintained, renews and rebinds by itself, and needs
//! nothing but a program to tell what it got. ISC's dhclient has no maintainer any more, dhcpcd
//! wants to manage all of a machine, and the crates for DHCP either only code messages or bring
//! an event loop of their own. It runs in the container's network namespace and in the host's file
//! system; it outlives the agent, so leases are renewed while no agent is there.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::netlink::Netlink;
use crate::problem::invalid;

/// How long the first lease may take: the client asks every two seconds.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a server has given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Name of the interface.
    pub interface: String,
    /// The address with its subnet.
    pub address: Ipv4Net,
    /// Routers, the best first.
    pub routers: Vec<Ipv4Addr>,
    /// Name servers.
    pub nameservers: Vec<Ipv4Addr>,
    /// Seconds that it is valid without being renewed.
    pub seconds: u64,
    /// Seconds since 1970 when it was given or renewed.
    pub since: u64,
}

impl Lease {
    /// Reads the environment that the client gives to its program.
    pub fn from_env(get: impl Fn(&str) -> Option<String>, now: u64) -> Option<Self> {
        let list = |name: &str| -> Vec<Ipv4Addr> {
            let text = get(name).unwrap_or_default();
            text.split_whitespace()
                .filter_map(|ip| ip.parse().ok())
                .collect()
        };
        let ip: Ipv4Addr = get("ip")?.parse().ok()?;
        // `mask` is the prefix's length, `subnet` the dotted form; servers may send neither.
        let length = get("mask").and_then(|text| text.parse().ok());
        let address = Ipv4Net::new(ip, length.unwrap_or(32)).ok()?;
        Some(Self {
            interface: get("interface")?,
            address,
            routers: list("router"),
            nameservers: list("dns"),
            seconds: get("lease").and_then(|text| text.parse().ok()).unwrap_or(0),
            since: now,
        })
    }
}

/// The files of a client.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
    name: String,
}

impl Files {
    /// Those of the client for an interface of somebody.
    pub fn new(folder: PathBuf, owner: &str, interface: &str) -> Self {
        Self {
            folder,
            // Neither has a colon in it.
            name: format!("{owner}:{interface}"),
        }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}.{suffix}", self.name))
    }

    /// What it got last.
    pub fn lease(&self) -> Option<Lease> {
        let text = fs::read_to_string(self.path("lease")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Removes them, as far as they are there.
    pub fn remove(&self) {
        for suffix in ["lease", "sh"] {
            let _ = fs::remove_file(self.path(suffix));
        }
    }

    /// Writes the program that the client calls: this one, with the file for the lease.
    fn write_program(&self) -> Result<PathBuf> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let path = self.path("sh");
        let text = format!(
            "#!/bin/sh\nexec {} dhcp-event {} \"$1\"\n",
            quote(&own),
            quote(&self.path("lease"))
        );
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The command that asks for an address and keeps it, `again` for the one it had.
    ///
    /// # Errors
    /// There is no client on this machine, or its program cannot be written.
    pub fn command(
        &self,
        interface: &str,
        hostname: &str,
        again: Option<Ipv4Addr>,
    ) -> Result<(PathBuf, Vec<String>)> {
        let client = ["busybox", "udhcpc"].into_iter().find_map(find_program);
        let client = client.ok_or_else(|| {
            invalid(
                "there is no udhcpc to ask a DHCP server, install busybox or give an address \
                 with --ip ADDRESS/LENGTH",
            )
        })?;
        let program = self.write_program()?;
        let mut arguments = Vec::new();
        if client.ends_with("busybox") {
            arguments.push("udhcpc".to_owned());
        }
        let program = program.display().to_string();
        let hostname = format!("hostname:{hostname}");
        for word in [
            "-f", "-i", interface, "-s", &program, "-t", "10", "-T", "2", "-A", "5", "-x",
            &hostname,
        ] {
            arguments.push(word.to_owned());
        }
        if let Some(again) = again {
            arguments.extend(["-r".to_owned(), again.to_string()]);
        }
        Ok((client, arguments))
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A path as one word of the shell's.
fn quote(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// The client has something to tell; the environment says what. Runs in the network namespace of
/// the interface.
///
/// # Errors
/// The kernel's, or that the lease cannot be written down.
pub async fn event(file: &Path, event: &str, now: u64) -> Result<()> {
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let lease = match event {
        "bound" | "renew" => Lease::from_env(|name| env.get(name).cloned(), now),
        "deconfig" => None,
        _ => return Ok(()),
    };
    let Some(interface) = env.get("interface") else {
        return Ok(());
    };
    let before: Option<Lease> = fs::read_to_string(file)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok());
    let netlink = Netlink::connect()?;
    let Some(link) = netlink.link(interface).await? else {
        return Ok(());
    };
    let old = before.map(|lease| lease.address);
    if let Some(old) = old
        && lease.as_ref().is_none_or(|lease| lease.address != old)
    {
        netlink.remove_address(link.index, old.into()).await?;
    }
    let Some(lease) = lease else {
        let _ = fs::remove_file(file);
        return Ok(());
    };
    let address = IpNet::V4(lease.address);
    netlink.add_address(link.index, address).await?;
    if let Some(router) = lease.routers.first().copied() {
        // Another interface that leads out already stays the way out; this one's router may have
        // changed.
        let routes = netlink.routes().await?;
        let is_anothers = |route: &crate::netlink::Route| {
            let is_default = route.destination.prefix_len() == 0;
            is_default && route.destination.addr().is_ipv4() && !route.devices.contains(&link.index)
        };
        if !routes.iter().any(is_anothers) {
            if !lease.address.contains(&router) {
                netlink
                    .put_route(link.index, IpAddr::V4(router).into(), None)
                    .await?;
            }
            let all = IpNet::V4(Ipv4Net::default());
            netlink
                .put_route(link.index, all, Some(router.into()))
                .await?;
        }
    }
    // As a whole or not at all: the agent reads it whenever it likes.
    let text = serde_json::to_string(&lease)?;
    let fresh = file.with_extension("new");
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(pairs: &[(&str, &str)]) -> Option<Lease> {
        let env: BTreeMap<_, _> = pairs.iter().copied().collect();
        Lease::from_env(|name| env.get(name).map(ToString::to_string), 5)
    }

    #[test]
    fn leases_are_read() {
        let full = lease(&[
            ("interface", "eth1"),
            ("ip", "10.0.0.9"),
            ("mask", "24"),
            ("subnet", "255.255.255.0"),
            ("router", "10.0.0.1 10.0.0.2"),
            ("dns", "10.0.0.53"),
            ("lease", "3600"),
        ])
        .unwrap();
        assert_eq!(full.address.to_string(), "10.0.0.9/24");
        assert_eq!(full.routers.len(), 2);
        assert_eq!((full.seconds, full.since), (3600, 5));
        // A server that tells next to nothing.
        let bare = lease(&[("interface", "eth1"), ("ip", "10.0.0.9")]).unwrap();
        assert_eq!(bare.address.to_string(), "10.0.0.9/32");
        assert!(bare.routers.is_empty());
        for wrong in [
            &[("ip", "10.0.0.9")][..],
            &[("interface", "eth1")],
            &[("interface", "eth1"), ("ip", "x")],
            &[("interface", "eth1"), ("ip", "10.0.0.9"), ("mask", "99")],
        ] {
            assert_eq!(lease(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn each_interface_has_its_files() {
        let path = |owner, interface| Files::new("/x".into(), owner, interface).path("lease");
        assert_eq!(path("a", "b"), Path::new("/x/a:b.lease"));
        assert_ne!(path("a-b", "c"), path("a", "b-c"));
    }

    #[test]
    fn paths_are_one_word() {
        assert_eq!(quote(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
