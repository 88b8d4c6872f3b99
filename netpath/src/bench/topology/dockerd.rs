//! A real Docker daemon, docker-proxy included. It runs in the host's network namespace and
//! in process and mount namespaces of its own, so that all of it ends with its first process
//! and nothing that it mounts or writes to /etc is seen by anybody else.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path as FilePath, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::super::interrupt;
use super::super::namespace::{Namespace, Service, feed, output};
use super::super::site::{Site, control_group};
use super::host::{HOST, Host, OUTSIDE};
use super::ours::Agent;
use super::{Ends, PUBLISHED, Path, SERVICE, Variant, tool};
use crate::agent::settings::DOCKER_SOCKET;
use crate::api::types::{Adopt, Adopted};
use crate::cli::refusals;

/// Name of the variant.
pub const NAME: &str = "dockerd";
/// Name of the variant whose bridge is adopted.
pub const ADOPTED: &str = "adopted";
/// Name of the variant whose containers are in a network of a user's own.
pub const OWN_NETWORK: &str = "dockerd/network";
/// Name of the variant whose containers are in a network of netpath's driver.
pub const PLUGIN: &str = "plugin";
/// The programs that it takes.
pub const TOOLS: [&str; 3] = ["dockerd", "docker", "unshare"];
/// How long the daemon may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);
/// Folders of the machine that containers see, for a program that sleeps.
const FOLDERS: [&str; 4] = ["/usr", "/bin", "/lib", "/lib64"];

/// What Docker calls its own network on docker0.
const BRIDGE: &str = "bridge";
/// A network that is made, and its subnet.
const NETWORK: (&str, &str) = ("own", "10.211.0.0/24");

/// Started inside its namespaces; $1 is its folder under /run, $2 the socket of netpath's driver.
/// Whoever has a containerd keeps it: the daemon would use it if it saw its socket. What Docker
/// writes to /etc and /opt, and the files of its shims in /run, are seen by nobody and go with the
/// mount namespace.
const SCRIPT: &str = r#"
set -e
exec 9<"$1"
mount -t tmpfs tmpfs /run
mkdir -p "$1"
mount --no-canonicalize --bind /proc/self/fd/9 "$1"
exec 9<&-
for d in etc opt; do
    test -d /$d || continue
    mkdir "$1/$d" "$1/$d-work"
    mount -t overlay overlay -o "lowerdir=/$d,upperdir=$1/$d,workdir=$1/$d-work" /$d
done
mkdir -p /etc/docker/plugins
echo "unix://$2" > /etc/docker/plugins/netpath.spec
shift 2
exec "$@"
"#;

/// A daemon with two containers and a published port, for TCP and for UDP.
///
/// # Errors
/// It does not serve; with its last words.
pub fn dockerd(site: &Site) -> Result<Variant> {
    build(site, NAME, Host::new(site, NAME)?, None)
}

/// The same, its containers in a network of a user's own: there Docker answers for names, with rules
/// in each container's namespace for it, so that the kernel tracks the container's connections
/// once more.
///
/// # Errors
/// It does not serve; with its last words.
pub fn own_network(site: &Site) -> Result<Variant> {
    let host = Host::new(site, "dockerd.network")?;
    let mut variant = build(site, OWN_NETWORK, host, Some("bridge"))?;
    variant.what = "the same Docker, its containers in a network made by a user".into();
    Ok(variant)
}

/// The same, and an agent that has adopted its bridge.
///
/// # Errors
/// One of them does not serve, or something is refused.
pub fn adopted(site: &Site) -> Result<Variant> {
    let host = Host::new(site, ADOPTED)?;
    let agent = Agent::start_on(site, ADOPTED, host.host.clone(), host.outside.clone())?;
    let mut variant = build(site, ADOPTED, host, None)?;
    let socket = site.folder(ADOPTED)?.join("docker.sock");
    let request = Adopt {
        socket: Some(socket),
        ..Adopt::default()
    };
    let adopted: Adopted = agent.client.post("/v1/adopt", &request)?;
    if let Some(reason) = refusals(&adopted).first() {
        bail!("not all of Docker is adopted: {reason}");
    }
    variant.what.push_str(", its bridge adopted by netpath");
    variant.services.extend(agent.into_service());
    Ok(variant)
}

/// A daemon whose containers are in a network of netpath's driver.
///
/// # Errors
/// The daemon or the agent does not serve.
pub fn plugin(site: &Site) -> Result<Variant> {
    let host = Host::new(site, PLUGIN)?;
    let agent = Agent::start_on(site, PLUGIN, host.host.clone(), host.outside.clone())?;
    let mut variant = build(site, PLUGIN, host, Some("netpath"))?;
    variant.what = "the same Docker, its containers in a network of driver netpath".into();
    variant.services.extend(agent.into_service());
    Ok(variant)
}

/// `driver`: of the network that is made for the containers; none, and they are on docker0.
fn build(site: &Site, name: &str, host: Host, driver: Option<&str>) -> Result<Variant> {
    let folder = site.folder(&name.replace('/', "."))?;
    let log = folder.join("dockerd.log");
    let daemon = daemon(site, &host.host, &folder);
    let mut service = Service::start(daemon, &log)?.with_init();
    let docker = Docker {
        host: host.host.clone(),
        socket: format!("unix://{}", folder.join("docker.sock").display()),
    };
    let end = Instant::now() + PATIENCE;
    let version = loop {
        interrupt::check()?;
        match docker.run(&["version", "--format", "{{.Server.Version}}"]) {
            Ok(version) => break version,
            Err(error) if Instant::now() > end || service.check().is_err() => {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let last = said.lines().last().unwrap_or_default();
                bail!("dockerd does not serve: {error:#}; its last words: {last}");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    };
    // An archive without files: the programs come from the machine.
    feed(
        docker.command(&["import", "-", "bench"]),
        &"\0".repeat(1024),
    )?;
    let network = match driver {
        None => BRIDGE,
        Some(driver) => {
            let (network, subnet) = NETWORK;
            let driver = format!("--driver={driver}");
            docker.run(&["network", "create", &driver, "--subnet", subnet, network])?;
            network
        }
    };
    let publish = ["tcp", "udp"].map(|proto| format!("-p={PUBLISHED}:{SERVICE}/{proto}"));
    let publish: Vec<&str> = publish.iter().map(String::as_str).collect();
    let root = PathBuf::from(format!("/proc/{}/root", service.pid()));
    let (first, target) = docker.container("c1", network, &publish, &root, site)?;
    let (second, _) = docker.container("c2", network, &[], &root, site)?;

    let mut variant = Variant::new(
        name,
        format!("Docker {version} as it comes, docker-proxy included"),
    );
    let published = |client: &Namespace, ip: [u8; 4]| Ends {
        client: client.clone(),
        server: first.clone(),
        listen: SocketAddr::from((target, SERVICE)),
        dial: SocketAddr::from((ip, PUBLISHED)),
    };
    variant.paths.extend([
        (Path::Containers, Ends::direct(&second, &first, target)),
        (Path::Outside, Ends::direct(&first, &host.outside, OUTSIDE)),
        (Path::Published, published(&host.outside, HOST)),
        (Path::Local, published(&host.host, [127, 0, 0, 1])),
    ]);
    variant.ports = 2;
    variant.rules = rules(&host.host);
    variant.host = Some(host.host);
    variant.services.push(service);
    Ok(variant)
}

fn daemon(site: &Site, host: &Namespace, folder: &FilePath) -> Command {
    let mut command = host.command("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", SCRIPT, "sh"])
        .arg(folder)
        .arg(folder.join("run").join(DOCKER_SOCKET))
        .arg(tool("dockerd").unwrap_or_else(|| "dockerd".into()))
        .arg("--data-root")
        .arg(folder.join("data"))
        .arg("--exec-root")
        .arg(folder.join("exec"))
        .arg("--pidfile")
        .arg(folder.join("pid"))
        .arg("--host")
        .arg(format!("unix://{}", folder.join("docker.sock").display()))
        .arg("--cgroup-parent")
        .arg(format!("/{}", control_group(site.dir())))
        .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
        .args(["--storage-driver", "vfs"])
        .stdout(std::process::Stdio::null());
    command
}

/// How many rules iptables has, whoever made them.
fn rules(host: &Namespace) -> u64 {
    let Some(save) = tool("iptables-save") else {
        return 0;
    };
    let text = output(host.command(save)).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("-A ")).count() as u64
}

/// The daemon's client.
struct Docker {
    host: Namespace,
    socket: String,
}

impl Docker {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command("docker");
        command.args(["--host", &self.socket]).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        output(self.command(args)).map(|text| text.trim().to_owned())
    }

    /// Starts a container that sleeps; its network namespace and its address.
    fn container(
        &self,
        name: &str,
        network: &str,
        options: &[&str],
        root: &FilePath,
        site: &Site,
    ) -> Result<(Namespace, Ipv4Addr)> {
        let folders = FOLDERS
            .iter()
            .filter(|folder| FilePath::new(folder).exists());
        let volumes: Vec<String> = folders
            .map(|folder| format!("--volume={folder}:{folder}:ro"))
            .collect();
        let mut args = vec!["run", "--detach", "--name", name, "--network", network];
        args.extend(options);
        args.extend(volumes.iter().map(String::as_str));
        args.extend(["bench", "/bin/sleep", "infinity"]);
        self.run(&args)?;
        let show = |what: &str| self.run(&["inspect", "--format", what, name]);
        let sandbox = show("{{.NetworkSettings.SandboxKey}}")?;
        let address = show(&format!(
            "{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}"
        ))?;
        let address = address
            .parse()
            .with_context(|| format!("Docker gave {name} the address {address:?}"))?;
        // The file is a mount that only the daemon's mount namespace has. It may be named
        // by /var/run, which is a link that must not lead out of there.
        let sandbox = sandbox.trim_start_matches('/');
        let namespace = Namespace::open(&root.join(sandbox), site.dir())?;
        Ok((namespace, address))
    }
}
