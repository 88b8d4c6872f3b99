//! All variants of a run, side by side.

use anyhow::Result;

use super::environment;
use super::interrupt;
use super::plan::{Case, Extent, SCALES};
use super::progress::Progress;
use super::results::LeftOut;
use super::rounds::TWIN;
use super::site::Site;
use super::topology::docker::{self, Backend};
use super::topology::{Ends, Path, Variant, Which, dockerd, ours, plain, tool, vxlan, wire};
use super::{Options, topology};

/// The variants of a run.
pub struct World {
    /// The variants.
    pub variants: Vec<Variant>,
    /// Those that this machine, or the user, does without.
    pub left_out: Vec<LeftOut>,
}

impl World {
    /// Builds every variant that has one of the cases' paths.
    ///
    /// # Errors
    /// One cannot be built. A program that is not installed is no error but a reason to leave
    /// a variant out.
    pub fn build(
        site: &Site,
        options: &Options,
        cases: &[Case],
        progress: &Progress,
    ) -> Result<Self> {
        let needs = |path: Path| cases.iter().any(|case| case.path == path);
        let full = options.extent == Extent::Full;
        let one_host = [Path::Containers, Path::Outside, Path::Published]
            .into_iter()
            .any(needs);
        let mut world = Self {
            variants: Vec::new(),
            left_out: Vec::new(),
        };
        let [mut own, process] = ours::netpath(site)?;
        if needs(Path::Overlay) {
            let (ends, services) = ours::overlay(site)?;
            own.paths.insert(Path::Overlay, ends);
            own.services.extend(services);
            world.add([vxlan::vxlan(site)?, vxlan::underlay(site)?]);
        }
        world.add([own, process]);
        world.add([plain::veth(site, "veth")?]);
        if full && needs(Path::Containers) {
            world.add([plain::loopback(site)?]);
        }
        // The A/A control wants two that are equal, whatever is measured.
        if let Some(one) = world.docker(site, Backend::Iptables, Backend::Iptables.name())? {
            let twin = format!("{}{TWIN}", one.name);
            let twin = world.docker(site, Backend::Iptables, &twin)?;
            world.add([one]);
            world.add(twin);
        } else {
            world.add([plain::veth(site, &format!("veth{TWIN}"))?]);
        }
        if full && one_host {
            let nft = world.docker(site, Backend::Nftables, Backend::Nftables.name())?;
            world.add(nft);
        }
        if full && needs(Path::Wire) {
            world.add([
                wire::underlay(site, false)?,
                wire::bridge(site)?,
                wire::process(site)?,
            ]);
            match wire::macvlan(site) {
                Ok(variant) => world.add([variant, wire::underlay(site, true)?]),
                Err(error) => world.leave_out(wire::MACVLAN, format!("{error:#}")),
            }
        }
        for ports in SCALES {
            if needs(Path::Scaling(ports, Which::Last)) || needs(Path::Scaling(ports, Which::First))
            {
                progress.stage(&format!("publishing {ports} ports"));
                world.scaled(site, ports, full)?;
            }
        }
        world.dockerd(site, options, one_host || needs(Path::Local), progress)?;
        for variant in &mut world.variants {
            if variant.name.ends_with(TWIN) {
                variant.paths.retain(|path, _| *path == Path::Containers);
            }
        }
        Ok(world)
    }

    fn add(&mut self, variants: impl IntoIterator<Item = Variant>) {
        self.variants.extend(variants);
    }

    fn leave_out(&mut self, what: &str, why: String) {
        if !self.left_out.iter().any(|left| left.what == what) {
            self.left_out.push(LeftOut {
                what: what.to_owned(),
                why,
            });
        }
    }

    /// docker0 without Docker, if the program for its rules is there.
    fn docker(&mut self, site: &Site, backend: Backend, name: &str) -> Result<Option<Variant>> {
        interrupt::check()?;
        let program = backend.program();
        if tool(program).is_none() {
            self.leave_out(backend.name(), format!("{program} is not installed"));
            return Ok(None);
        }
        docker::docker(site, backend, name).map(Some)
    }

    /// Many published ports.
    fn scaled(&mut self, site: &Site, ports: u32, full: bool) -> Result<()> {
        let backends: &[Backend] = match (full, ports) {
            (true, _) => &[Backend::Iptables, Backend::OldIptables, Backend::Nftables],
            (false, 1) => &[Backend::Iptables],
            (false, _) => &[Backend::Iptables, Backend::OldIptables],
        };
        for &backend in backends {
            interrupt::check()?;
            if tool(backend.program()).is_some() {
                self.add([docker::scaled(site, backend, ports)?]);
            }
        }
        interrupt::check()?;
        self.add([ours::scaled(site, ports)?]);
        Ok(())
    }

    fn dockerd(
        &mut self,
        site: &Site,
        options: &Options,
        wanted: bool,
        progress: &Progress,
    ) -> Result<()> {
        if !wanted {
            return Ok(());
        }
        if !options.docker {
            self.leave_out(dockerd::NAME, "asked for with --docker".into());
            return Ok(());
        }
        if let Some(missing) = dockerd::TOOLS.iter().find(|name| tool(name).is_none()) {
            self.leave_out(dockerd::NAME, format!("{missing} is not installed"));
            return Ok(());
        }
        type Build = fn(&Site) -> Result<Variant>;
        let all: [(&str, Build); 4] = [
            (dockerd::NAME, dockerd::dockerd),
            (dockerd::ADOPTED, dockerd::adopted),
            (dockerd::OWN_NETWORK, dockerd::own_network),
            (dockerd::PLUGIN, dockerd::plugin),
        ];
        for (name, build) in all {
            progress.stage("starting a Docker daemon");
            match build(site) {
                Ok(variant) => self.add([variant]),
                Err(error) => {
                    interrupt::check()?;
                    self.leave_out(name, format!("{error:#}"));
                }
            }
        }
        Ok(())
    }

    /// The ends of the bare veth pair.
    pub fn veth(&self) -> Option<&Ends> {
        let veth = self
            .variants
            .iter()
            .find(|variant| variant.name == "veth")?;
        veth.paths.get(&Path::Containers)
    }

    /// Offloads of a container's device.
    pub fn offloads(&self) -> Vec<String> {
        let ours = self
            .variants
            .iter()
            .find(|variant| variant.name == topology::ours::NETPATH);
        ours.and_then(|variant| variant.paths.get(&Path::Containers))
            .map(|ends| environment::offloads(&ends.client))
            .unwrap_or_default()
    }
}
