//! Containers' own `resolv.conf`, `hosts` and `hostname`. The host's are never written.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::Agent;
use super::names::{has_names, host_gateways};
use super::network::DEFAULT_NETWORK;
use crate::container::files::{self, Hosts};
use crate::problem::{conflict, invalid};
use crate::store::{ContainerRecord, Mode};

/// What was last written to `resolv.conf`: one that somebody has changed since is left alone.
const MADE: &str = "resolv.conf.made";

impl Agent {
    /// Makes the files of a new container.
    pub(super) fn write_files(&self, record: &ContainerRecord) -> Result<()> {
        let Some(command) = &record.command else {
            return Ok(());
        };
        let folder = self.files_path(&record.name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let resolv_conf = self.resolv_conf(record);
        let hosts = if record.mode == Mode::Host {
            // What the host's own programs read is right for it, too.
            let here = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
            let extra = files::extra_hosts(&record.names.hosts, &here);
            let lines = extra.iter().map(|(ip, names)| format!("{ip}\t{names}\n"));
            read(Path::new("/etc/hosts")) + &lines.collect::<String>()
        } else {
            let networks = self.store.networks()?;
            let gateways = host_gateways(record, &networks);
            let wants_host = record
                .names
                .hosts
                .iter()
                .find(|host| host.address.is_none());
            if let (Some(host), true) = (wants_host, gateways.is_empty()) {
                return Err(invalid(format!(
                    "--add-host {}:host-gateway cannot be: the container's networks have no \
                     address of the host",
                    host.name
                )));
            }
            let mut others = files::extra_hosts(&record.names.hosts, &gateways);
            others.extend(self.link_lines(record)?);
            Hosts {
                others,
                ..own_hosts(record, &command.hostname)
            }
            .text()
        };
        for (name, text, mode) in [
            (MADE, resolv_conf.clone(), 0o644),
            ("resolv.conf", resolv_conf, 0o644),
            ("hosts", hosts, 0o644),
            ("hostname", format!("{}\n", command.hostname), 0o644),
            // What a container prints may be a secret.
            ("log", String::new(), 0o600),
        ] {
            let path = folder.join(name);
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Has the files of a container follow its networks.
    pub(super) fn refresh_files(
        &self,
        before: &ContainerRecord,
        record: &ContainerRecord,
    ) -> Result<()> {
        let Some(command) = &record.command else {
            return Ok(());
        };
        let folder = self.files_path(&record.name);
        let path = folder.join("hosts");
        let earlier: Vec<IpAddr> = before.addresses().collect();
        let hosts = own_hosts(record, &command.hostname).update(&read(&path), &earlier);
        write_in_place(&path, &hosts)?;
        let path = folder.join("resolv.conf");
        let made = read(&folder.join(MADE));
        let text = self.resolv_conf(record);
        if text != made && read(&path) == made {
            write_in_place(&folder.join(MADE), &text)?;
            write_in_place(&path, &text)?;
        }
        Ok(())
    }

    fn resolv_conf(&self, record: &ContainerRecord) -> String {
        let path = &self.settings.resolv_conf;
        let options = &record.names;
        if record.mode == Mode::Host {
            let host = read(path);
            let own = options.servers.is_empty()
                && options.search.is_empty()
                && options.options.is_empty();
            // Servers on the host's loopback device are its own, too.
            return if own {
                host
            } else {
                files::resolv_conf(&host, |_| true, options)
            };
        }
        let host = files::host_resolv_conf(path);
        if has_names(record) {
            return files::resolv_conf_with_names(&host, options);
        }
        let v6 = record.addresses().any(|address| address.is_ipv6());
        let reachable =
            |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified() && (v6 || ip.is_ipv4());
        files::resolv_conf(&host, reachable, options)
    }

    /// Checks that linked containers are there, and can be reached.
    pub(super) fn check_links(&self, record: &ContainerRecord) -> Result<()> {
        for link in &record.names.links {
            let target = self.store.container(&link.container)?;
            let shared = |name: &str| target.endpoint_in(name).is_some();
            if !record.endpoints.iter().any(|own| shared(&own.network)) {
                return Err(conflict(format!(
                    "--link {}: the two containers share no network, connect them to one first",
                    link.container
                )));
            }
        }
        Ok(())
    }

    /// Lines about linked containers, on the default network.
    fn link_lines(&self, record: &ContainerRecord) -> Result<Vec<(IpAddr, String)>> {
        let mut lines = Vec::new();
        if record.endpoint_in(DEFAULT_NETWORK).is_none() {
            return Ok(lines);
        }
        for link in &record.names.links {
            let target = self.store.container(&link.container)?;
            let names = if link.alias == target.name {
                target.name.clone()
            } else {
                format!("{} {}", link.alias, target.name)
            };
            let endpoint = target.endpoint_in(DEFAULT_NETWORK);
            let addresses = endpoint.iter().flat_map(|endpoint| endpoint.addresses());
            lines.extend(addresses.map(|address| (address, names.clone())));
        }
        Ok(lines)
    }
}

fn own_hosts<'a>(record: &'a ContainerRecord, hostname: &'a str) -> Hosts<'a> {
    Hosts {
        hostname,
        name: &record.name,
        addresses: record.addresses().collect(),
        others: Vec::new(),
    }
}

/// A file's text; nothing if there is none.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Changes a file that is mounted into a container, and so must stay the same file. Whoever reads
/// it meanwhile finds the old text or the new one, and never nothing.
fn write_in_place(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.set_len(text.len() as u64)
        })
        .with_context(|| format!("cannot write {}", path.display()))
}
