//! The command line: one file a verb.

mod adopt;
mod agent;
mod attach;
mod bench;
mod cards;
mod connect;
mod deny;
mod doctor;
mod exec;
mod explain;
mod inspect;
mod install;
mod logs;
mod monitor;
mod name_args;
mod name_server;
mod network;
mod nodes;
mod port;
mod ps;
mod purge;
mod records;
mod rm;
mod run;
mod shim;
mod status;
mod stop;
mod tunnel;

pub use adopt::refusals;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use serde_json::{Map, Value};

use crate::agent::settings::{RUN_DIR, SOCKET};
use crate::api::client::Client;
use crate::api::types::Container;
use crate::docker;
use crate::output::template::Template;
use crate::output::{Format, complain, one_line};

/// Networks for containers by eBPF: no bridge, no iptables, no conntrack.
#[derive(Debug, Parser)]
#[command(name = "netpath", version, propagate_version = true)]
struct Cli {
    /// The agent's socket [default: $NETPATH_SOCKET or /run/netpath/netpath.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Form of the output
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    output: Format,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent
    Agent(Box<agent::Args>),
    /// Make, list and remove networks
    Network(network::Args),
    /// Run a command in a container of its own
    Run(run::Args),
    /// Run a command in a container that runs
    Exec(exec::Args),
    /// Connect a network namespace that is somebody else's; with --parent, add an interface on a
    /// card of the host to a running container (see `attach --parent help`)
    Attach(attach::Args),
    /// The same with an interface on a card of the host: what `attach` is with `--parent`
    #[command(name = ATTACH_CARD, hide = true)]
    AttachCard(cards::Attach),
    /// Take interfaces back that `attach --parent` added
    Detach(cards::Detach),
    /// List the interfaces that `attach --parent` added
    Cards,
    /// What a DHCP client calls
    #[command(hide = true)]
    DhcpEvent(cards::Event),
    /// List containers
    Ps(ps::Args),
    /// Show all about a container
    Inspect(inspect::Args),
    /// Show the published ports of a container
    Port(port::Args),
    /// Show what a detached container printed
    Logs(logs::Args),
    /// Stop containers
    Stop(stop::Args),
    /// Remove containers, detach attached namespaces
    Rm(rm::Args),
    /// Show the addresses that the datapath delivers to
    Endpoints,
    /// Show the published ports of all containers
    Ports,
    /// Show the connections that the datapath translates
    Flows,
    /// Show what the datapath dropped, by reason
    Drops(records::Drops),
    /// Drop whatever comes from certain sources before it costs anything
    Deny(deny::Args),
    /// Tell what would become of a packet, and why
    Explain(explain::Args),
    /// Show drops and flows as they happen
    Monitor(monitor::Args),
    /// Add, list and remove tunnels to other hosts
    Tunnel(tunnel::Args),
    /// Show the other hosts of networks, and what goes there and comes from there
    Tunnels,
    /// Show the hosts of the cluster
    Nodes,
    /// Show what the datapath counts
    Counters,
    /// Make Docker's own networks fast without changing a command
    Adopt(adopt::Args),
    /// Show how the agent is
    Status,
    /// Check whether this host has what netpath needs
    Doctor,
    /// Remove everything that an agent made; the agent must not run
    Purge(purge::Args),
    /// Put the program, its service, its manual and Docker's plugin file in place
    Install(install::Args),
    /// End the service, purge, and take away what `install` put in place
    Uninstall(install::Args),
    /// Measure how fast packets go, beside other ways of connecting containers
    Bench(bench::Args),
    /// The traffic generator of `bench`
    #[command(hide = true)]
    BenchWorker(bench::WorkerArgs),
    /// The supervisor of a detached container
    #[command(hide = true)]
    Shim,
    /// The server that containers ask for names
    #[command(hide = true)]
    NameServer(name_server::Args),
}

/// Makes `-o KEY=VALUE` after `network create`, which is how Docker's users write it, `--opt
/// KEY=VALUE`. Elsewhere, and before `table` and `json`, `-o` is the form of the output.
fn options_of_networks(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args = cards_verb(args.collect()).into_iter().peekable();
    let (mut words, mut creating) = (Vec::new(), false);
    while let Some(word) = args.next() {
        let after_network = words.last().is_some_and(|last| last == "network");
        creating |= word == "create" && after_network;
        let is_option = |text: &str| {
            !["table", "json"].contains(&text) && !text.is_empty() && !text.starts_with('-')
        };
        let next = |next: &OsString| is_option(&next.to_string_lossy());
        let attached = word.to_string_lossy().into_owned();
        match attached.strip_prefix("-o") {
            Some("") if creating && args.peek().is_some_and(next) => {
                words.push("--opt".into());
            }
            Some(option) if creating && is_option(option.trim_start_matches('=')) => {
                words.push(format!("--opt={}", option.trim_start_matches('=')).into());
            }
            _ => words.push(word),
        }
    }
    words
}

/// The verb that `attach` is when a parent is named. Its arguments have little in common with
/// those of the other.
const ATTACH_CARD: &str = "attach-card";

/// Makes `attach` with `--parent` its own verb. `-o KEY=VALUE` there is an option of the driver.
fn cards_verb(mut words: Vec<OsString>) -> Vec<OsString> {
    let is_parent =
        |word: &OsString| word == "--parent" || word.to_string_lossy().starts_with("--parent=");
    // The verb is the first word that is neither an option nor the value of one.
    let mut verb = 1;
    while let Some(word) = words
        .get(verb)
        .map(|word| word.to_string_lossy().into_owned())
    {
        match word.as_str() {
            "-o" | "--output" | "--socket" => verb += 2,
            _ if word.starts_with('-') => verb += 1,
            _ => break,
        }
    }
    if words.get(verb).is_some_and(|word| word == "attach") && words.iter().any(is_parent) {
        words[verb] = ATTACH_CARD.into();
        for at in verb + 1..words.len() {
            let value = words.get(at + 1).map(|word| word.to_string_lossy());
            if words[at] == "-o" && value.is_some_and(|value| value.contains('=')) {
                words[at] = "--opt".into();
            }
        }
    }
    words
}

/// `KEY=VALUE`.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

/// What every verb may need.
struct Context {
    /// The socket that the user named.
    socket: Option<PathBuf>,
    output: Format,
}

impl Context {
    fn client(&self) -> Client {
        let default = || PathBuf::from(RUN_DIR).join(SOCKET);
        let socket = self.socket.clone().unwrap_or_else(default);
        // Supervisors leave the folder that they were started in.
        Client::new(std::path::absolute(&socket).unwrap_or(socket))
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(options_of_networks(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            complain(&sentence(&error));
            // Like most programs that are used wrongly.
            return ExitCode::from(2);
        }
        // --help and --version.
        Err(error) => error.exit(),
    };
    let default = match cli.verb {
        // What the programs say is chosen when they are loaded (--log-datapath).
        Verb::Agent(_) => "info,netpath_ebpf=trace",
        Verb::NameServer(_) => "info",
        _ => "warn",
    };
    let env = env_logger::Env::default().default_filter_or(default);
    env_logger::Builder::from_env(env)
        .format_target(false)
        .init();
    let from_env = || std::env::var_os("NETPATH_SOCKET").map(PathBuf::from);
    let context = Context {
        socket: cli.socket.or_else(from_env),
        output: cli.output,
    };
    match dispatch(cli.verb, &context) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(crate::container::shim::exit_code(&error))
        }
    }
}

/// What clap has to say about wrong usage, in one line.
fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let help = "see \"netpath --help\"";
    // What stands before the usage: a headline, and indented lines that belong to it.
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("a command is missing, {help}");
    }
    let said = text.split("\nUsage:").next().unwrap_or_default();
    let said = said
        .split("\nFor more information")
        .next()
        .unwrap_or_default();
    let mut lines = said.lines().map(str::trim).filter(|line| {
        // The list of all verbs is what the help is for, and names the hidden one.
        !line.is_empty() && !line.starts_with("[subcommands:")
    });
    let headline = lines.next().unwrap_or_default();
    let headline = headline.strip_prefix("error: ").unwrap_or(headline);
    let rest: Vec<&str> = lines.collect();
    let joint = if headline.ends_with(':') || rest.is_empty() {
        " "
    } else {
        ", "
    };
    let mut all = format!("{headline}{joint}{}", rest.join(", "));
    all.truncate(all.trim_end().len());
    format!("{}; {help}", one_line(&all))
}

fn dispatch(verb: Verb, context: &Context) -> Result<ExitCode> {
    match verb {
        // These four have exit codes of their own.
        Verb::Run(args) => return run::run(args, context),
        Verb::Exec(args) => return exec::run(args, context),
        Verb::Doctor => return doctor::run(context),
        Verb::Bench(args) => return bench::run(args, context),
        Verb::Agent(args) => agent::run(*args, context),
        Verb::Network(args) => network::run(args, context),
        Verb::Attach(args) => attach::run(args, context),
        Verb::AttachCard(args) => cards::attach(args, context),
        Verb::Detach(args) => cards::detach(&args, context),
        Verb::Cards => cards::list(context),
        Verb::DhcpEvent(args) => cards::event(&args),
        Verb::Ps(args) => ps::run(&args, context),
        Verb::Inspect(args) => inspect::run(&args, context),
        Verb::Port(args) => port::run(&args, context),
        Verb::Logs(args) => logs::run(&args, context),
        Verb::Stop(args) => stop::run(&args, context),
        Verb::Rm(args) => rm::run(&args, context),
        Verb::Endpoints => records::run("endpoints", context),
        Verb::Ports => records::run("ports", context),
        Verb::Flows => records::run("flows", context),
        Verb::Drops(args) => records::drops(&args, context),
        Verb::Deny(args) => deny::run(args, context),
        Verb::Explain(args) => explain::run(args, context),
        Verb::Monitor(args) => monitor::run(&args, context),
        Verb::Tunnel(args) => tunnel::run(args, context),
        Verb::Tunnels => records::tunnels(context),
        Verb::Nodes => nodes::run(context),
        Verb::Counters => records::run("counters", context),
        Verb::Adopt(args) => adopt::run(args, context),
        Verb::Status => status::run(context),
        Verb::Purge(args) => purge::run(args, context),
        Verb::Install(args) => install::install(&args),
        Verb::Uninstall(args) => install::uninstall(&args, context),
        Verb::BenchWorker(args) => bench::work(&args),
        Verb::Shim => shim::run(),
        Verb::NameServer(args) => name_server::run(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// The path of a container in the API. Names are checked here: one with a slash would be
/// another path.
fn container_path(name: &str) -> Result<String> {
    crate::container::names::check_word("container", name)?;
    Ok(format!("/v1/containers/{name}"))
}

/// The container of this name; or, of a container of Docker's, its endpoints, one a network.
fn find_containers(context: &Context, name: &str) -> Result<Vec<Container>> {
    let client = context.client();
    let missing = match client.get(&container_path(name)?) {
        Ok(container) => return Ok(vec![container]),
        Err(error) => error,
    };
    let Ok(mut all) = client.get::<Vec<Container>>("/v1/containers") else {
        return Err(missing);
    };
    docker::names::of_containers(&mut all);
    all.retain(|container| {
        let docker = container.docker.as_ref();
        docker.is_some_and(|docker| docker.name.as_deref() == Some(name))
    });
    if all.is_empty() {
        Err(missing)
    } else {
        Ok(all)
    }
}

/// A user's words as part of a query: all but what needs no escape is percent-encoded
/// (RFC 3986, 2.1).
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Shows each of several things as Docker's `inspect` verbs do; those that are not there do not
/// keep the others from being shown. `left_out` are fields that a template finds, although the JSON
/// leaves them out where they are empty.
fn inspect_each(
    names: &[String],
    format: Option<&str>,
    left_out: &[(&str, Value)],
    get: impl Fn(&str) -> Result<Value>,
) -> Result<()> {
    let template = match format {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let (mut found, mut last) = (Vec::new(), None);
    for name in names {
        match get(name) {
            Ok(value) => found.push(value),
            Err(error) => {
                if let Some(earlier) = last.replace(error) {
                    complain(&format!("{earlier:#}"));
                }
            }
        }
    }
    match template {
        Some(template) => {
            let mut text = String::new();
            for value in &found {
                // Go calls it so, JSON has it otherwise.
                let id = value.get("Id").cloned().unwrap_or_default();
                let fields = left_out.iter().cloned().chain([("ID", id)]);
                let methods: Map<String, Value> = fields
                    .map(|(field, value)| (field.to_owned(), value))
                    .collect();
                text.push_str(&template.render(value, &methods)?);
                text.push('\n');
            }
            crate::output::print(&text)?;
        }
        None if format == Some("json") => {
            crate::output::print(&format!("{}\n", Value::from(found)))?;
        }
        None => crate::output::print_array(&found)?,
    }
    last.map_or(Ok(()), Err)
}

/// Does something to each of several containers; one that fails does not keep the others
/// from their turn.
fn for_each(names: &[String], action: impl Fn(&str) -> Result<()>) -> Result<()> {
    let mut last = None;
    for name in names {
        match action(name) {
            Ok(()) => crate::output::print(&format!("{name}\n"))?,
            Err(error) => {
                if let Some(earlier) = last.replace(error) {
                    complain(&format!("{earlier:#}"));
                }
            }
        }
    }
    last.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_one_sentence() {
        for (args, part) in [
            (&[][..], "command is missing"),
            (&["network"], "command is missing"),
            (&["bogus"], "'bogus'"),
            (&["run"], "<COMMAND>..."),
            (&["run", "--ip", "banana", "x"], "'banana'"),
            (&["exec"], "<NAME>, <COMMAND>..."),
            (&["attach", "--name", "x"], "--netns <PATH>"),
            (&["-o", "yaml", "ps"], "table, json"),
            (&["--help-me"], "--help-me"),
            (&["rm", "--", "a", "-o\nb"], ""),
            (&["-o", "a\nb\n\nc", "ps"], "'a"),
        ] {
            let Err(error) = Cli::try_parse_from([&["netpath"], args].concat()) else {
                continue;
            };
            let text = sentence(&error);
            assert!(!text.contains('\n'), "{args:?}: {text}");
            assert!(text.contains(part), "{args:?}: {text}");
            assert!(text.ends_with("see \"netpath --help\""), "{text}");
            assert!(!text.contains("shim") && !text.contains("Usage"), "{text}");
        }
    }

    #[test]
    fn options_of_networks_are_written_as_in_docker() {
        let parse = |line: &str| {
            let words = line.split(' ').map(OsString::from);
            Cli::try_parse_from(options_of_networks(words))
        };
        let line = "netpath -o json network create -o icc=false n -o=a=b -oc=d --opt e=f=g";
        let cli = parse(line).unwrap();
        assert_eq!(cli.output, Format::Json);
        let text = format!("{:?}", cli.verb);
        for pair in [
            r#"("icc", "false")"#,
            r#"("a", "b")"#,
            r#"("c", "d")"#,
            r#"("e", "f=g")"#,
        ] {
            assert!(text.contains(pair), "{text}");
        }
        let cli = parse("netpath network create n -o json").unwrap();
        assert_eq!(cli.output, Format::Json);
        let cli = parse("netpath network create n -o encrypted").unwrap();
        assert!(format!("{:?}", cli.verb).contains(r#"("encrypted", "")"#));
        assert!(parse("netpath network create n -o =x").is_err());
        assert!(parse("netpath network ls -o a=b").is_err());
    }

    #[test]
    fn what_follows_the_command_is_the_commands() {
        let cli = Cli::try_parse_from([
            "netpath", "-o", "json", "run", "-d", "-p", "80:80", "--", "ls", "-d", "--name",
        ]);
        let Verb::Run(args) = cli.unwrap().verb else {
            panic!("not run")
        };
        assert_eq!(args.command, ["ls", "-d", "--name"]);
        assert!(args.detach && args.connect.publish == ["80:80"]);
        let cli = Cli::try_parse_from(["netpath", "run", "sh", "-c", "exit 3"]).unwrap();
        let Verb::Run(args) = cli.verb else {
            panic!("not run")
        };
        assert_eq!(args.command, ["sh", "-c", "exit 3"]);
    }
}
