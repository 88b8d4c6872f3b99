//! The ports of masqueraded connections, kept from the host's own sockets.
//!
//! Where their range overlaps the kernel's ephemeral range, a socket of the host could be given
//! the port of a container's connection, and one of the two would get the other's answers.
//! There the ports are added to `net.ipv4.ip_local_reserved_ports`, from which the kernel gives
//! none to a socket that does not ask for it by number. (A socket that does ask is seen by the
//! datapath, which then takes another port.)
//!
//! What was added is noted in the run folder, which like the setting does not outlive a reboot,
//! so that exactly that is taken back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::settings::Settings;
use crate::netlink::sysctl;
use crate::problem::invalid;
use crate::publish::ephemeral::{local_range, parse_ranges};

const SYSCTL: &str = "ipv4/ip_local_reserved_ports";
/// With fewer ephemeral ports the host's own connections would soon find none.
const LEAST_LEFT: usize = 1024;

/// What is to be reserved.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    /// Ports that the administrator, or somebody else, reserved.
    foreign: Ports,
    /// Ports that we add.
    own: Ports,
    /// Whether there is anything to do.
    is_new: bool,
}

impl Claim {
    /// Looks at the host and decides, without changing anything.
    ///
    /// # Errors
    /// A sentence: the host would have too few ports left.
    pub fn plan(settings: &Settings) -> Result<Self> {
        let reserved = sysctl::get(SYSCTL).unwrap_or_default();
        let noted = read_note(&note(&settings.run_dir))?;
        plan(
            settings.snat_ports,
            local_range(),
            &Ports::parse(&reserved),
            &Ports::parse(&noted),
        )
    }

    /// Reserves the ports, and gives back those of an earlier range.
    ///
    /// # Errors
    /// A sentence: the setting cannot be written.
    pub fn apply(&self, settings: &Settings) -> Result<()> {
        if !self.is_new {
            return Ok(());
        }
        let (first, last) = settings.snat_ports;
        // The note first: ports that were reserved without one would stay forever.
        write_note(&note(&settings.run_dir), &self.own)?;
        let written = set(&self.foreign.with(&self.own)).and_then(|is_there| {
            anyhow::ensure!(
                is_there,
                "this kernel has no net.ipv4.ip_local_reserved_ports"
            );
            Ok(())
        });
        written.with_context(|| {
            format!(
                "snat-ports {first}-{last} overlap the host's ephemeral ports \
                 (net.ipv4.ip_local_port_range) and cannot be reserved, choose others"
            )
        })?;
        if !self.own.is_empty() {
            log::info!(
                "ports {} are reserved for masqueraded connections \
                 (net.ipv4.ip_local_reserved_ports)",
                self.own
            );
        }
        Ok(())
    }
}

fn plan(
    (first, last): (u16, u16),
    ephemeral: Option<(u16, u16)>,
    reserved: &Ports,
    noted: &Ports,
) -> Result<Claim> {
    let foreign = reserved.without(noted);
    let (low, high) = ephemeral.unwrap_or((1, 0));
    let own = Ports::range(first.max(low), last.min(high)).without(&foreign);
    let left = Ports::range(low, high).without(&foreign).without(&own);
    if !own.is_empty() && left.len() < LEAST_LEFT {
        return Err(invalid(format!(
            "snat-ports {first}-{last} would leave the host {} of its own ephemeral ports \
             {low}-{high} (net.ipv4.ip_local_port_range), choose others",
            left.len()
        )));
    }
    let is_new = foreign.with(&own) != *reserved || own != *noted;
    Ok(Claim {
        foreign,
        own,
        is_new,
    })
}

/// Takes back what an agent with this run folder reserved; returns it if there was any.
///
/// # Errors
/// The setting cannot be written.
pub fn give_back(run_dir: &Path) -> Result<Option<String>> {
    let path = note(run_dir);
    let noted = Ports::parse(&read_note(&path)?);
    if !noted.is_empty() {
        let reserved = Ports::parse(&sysctl::get(SYSCTL).unwrap_or_default());
        set(&reserved.without(&noted))?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
        _ => {}
    }
    Ok((!noted.is_empty()).then(|| noted.to_string()))
}

/// Writes the setting; false if this kernel does not have it.
fn set(ports: &Ports) -> Result<bool> {
    // An empty write would be no write.
    sysctl::set(SYSCTL, &format!("{ports}\n"))
}

fn note(run_dir: &Path) -> PathBuf {
    run_dir.join("reserved-ports")
}

fn read_note(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write_note(path: &Path, ports: &Ports) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, format!("{ports}\n"))
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A set of ports: ranges in order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// From text as the kernel has it: `80,90-99`.
    fn parse(text: &str) -> Self {
        let mut member = vec![false; 1 << 16];
        for (first, last) in parse_ranges(text) {
            for port in first..=last {
                member[usize::from(port)] = true;
            }
        }
        Self::of(|port| member[usize::from(port)])
    }

    /// All from `first` to `last`; none if that runs backwards.
    fn range(first: u16, last: u16) -> Self {
        Self(if first <= last {
            vec![(first, last)]
        } else {
            Vec::new()
        })
    }

    /// Those for which `member` says so.
    fn of(member: impl Fn(u16) -> bool) -> Self {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for port in (0..=u16::MAX).filter(|port| member(*port)) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == port => *last = port,
                _ => ranges.push((port, port)),
            }
        }
        Self(ranges)
    }

    fn contains(&self, port: u16) -> bool {
        let mut ranges = self.0.iter();
        ranges.any(|(first, last)| (first..=last).contains(&&port))
    }

    fn with(&self, other: &Self) -> Self {
        Self::of(|port| self.contains(port) || other.contains(port))
    }

    fn without(&self, other: &Self) -> Self {
        Self::of(|port| self.contains(port) && !other.contains(port))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn len(&self) -> usize {
        let sizes = self
            .0
            .iter()
            .map(|(first, last)| usize::from(last - first) + 1);
        sizes.sum()
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (nth, (first, last)) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: Option<(u16, u16)> = Some((32_768, 60_999));

    fn claim(snat: (u16, u16), reserved: &str, noted: &str) -> Claim {
        plan(snat, LINUX, &Ports::parse(reserved), &Ports::parse(noted)).unwrap()
    }

    #[test]
    fn sets_of_ports() {
        let ports = Ports::parse("90-99,80,100,5-3,x\n");
        assert_eq!(ports.to_string(), "80,90-100");
        assert_eq!(ports.len(), 12);
        assert_eq!(
            ports.without(&Ports::parse("95")).to_string(),
            "80,90-94,96-100"
        );
        assert_eq!(ports.with(&Ports::range(81, 89)).to_string(), "80-100");
        assert_eq!(
            Ports::range(0, u16::MAX).with(&ports).to_string(),
            "0-65535"
        );
        assert!(Ports::parse("\n").is_empty() && Ports::range(2, 1).is_empty());
    }

    #[test]
    fn a_range_of_its_own_needs_nothing() {
        assert!(!claim((16_384, 32_767), "", "").is_new);
        assert!(!claim((16_384, 32_767), "8080", "").is_new);
        // A kernel without the setting.
        assert!(
            !plan((1024, 65_535), None, &Ports::default(), &Ports::default())
                .unwrap()
                .is_new
        );
    }

    #[test]
    fn only_what_overlaps_is_reserved_and_only_once() {
        let new = claim((30_000, 40_000), "8080,39000-41000", "");
        assert_eq!(new.own.to_string(), "32768-38999");
        assert_eq!(new.foreign.to_string(), "8080,39000-41000");
        assert!(new.is_new);
        let again = claim((30_000, 40_000), "8080,32768-41000", "32768-38999");
        assert_eq!((again.own, again.foreign), (new.own, new.foreign));
        assert!(!again.is_new);
    }

    #[test]
    fn an_earlier_range_is_given_back() {
        let other = claim((50_000, 50_999), "8080,32768-40000", "32768-40000");
        assert_eq!(other.own.to_string(), "50000-50999");
        assert_eq!(other.foreign.to_string(), "8080");
        let none = claim((16_384, 32_767), "8080,32768-40000", "32768-40000");
        assert!(none.own.is_empty() && none.is_new);
    }

    #[test]
    fn the_host_keeps_ports_of_its_own() {
        let all = plan(
            (32_768, 60_000),
            LINUX,
            &Ports::default(),
            &Ports::default(),
        );
        let error = all.unwrap_err().to_string();
        assert!(
            error.contains("would leave the host 999 of its own"),
            "{error}"
        );
    }
}
