//! `netpath run`

use std::process::ExitCode;

use anyhow::Result;

use super::connect::ConnectArgs;
use super::{Context, key_value};
use crate::api::types::CreateContainer;
use crate::container::lookup;
use crate::container::shim::{self, Job, Report};
use crate::container::supervise::{self, Streams};
use crate::doctor;
use crate::output::{complain, print};
use crate::problem::invalid;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub connect: ConnectArgs,

    /// Its host name [default: its name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// A variable for the environment, or one to hand on
    #[arg(short, long = "env", value_name = "KEY=VALUE")]
    env: Vec<String>,

    /// A setting of the kernel for its network, like net.ipv4.tcp_keepalive_time=60
    #[arg(long = "sysctl", value_name = "KEY=VALUE", value_parser = key_value)]
    sysctls: Vec<(String, String)>,

    /// Run it in the background and print its name
    #[arg(short, long)]
    pub detach: bool,

    /// Remove it as soon as it ends
    #[arg(long)]
    rm: bool,

    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

pub fn run(args: Args, context: &Context) -> Result<ExitCode> {
    if !doctor::has_capability() {
        return Err(invalid(
            "a container can only be run by root (it needs CAP_SYS_ADMIN), use sudo",
        ));
    }
    let env = environment(&args.env)?;
    // `-e PATH=...` is for the command, but also finds it.
    let path = env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map(|(_, path)| path.into());
    let path = path.or_else(|| std::env::var_os("PATH"));
    let program = args.command.first().map(String::as_str).unwrap_or_default();
    let program = match lookup::find(program, path.as_deref()) {
        Ok(program) => program,
        Err(unusable) => {
            complain(&unusable.to_string());
            return Ok(ExitCode::from(unusable.code));
        }
    };
    let request = CreateContainer {
        connect: args.connect.request()?,
        hostname: args.hostname,
        argv: args.command,
        detached: args.detach,
        remove: args.rm,
        sysctls: args.sysctls.into_iter().collect(),
        supervisor: std::process::id(),
    };
    let client = context.client();
    if args.detach {
        let job = Job {
            socket: client.socket().to_owned(),
            request,
            program,
            env,
        };
        return match shim::launch(&job)? {
            Report::Running { name, warnings } => {
                warn(&warnings);
                print(&format!("{name}\n")).map(|()| ExitCode::SUCCESS)
            }
            Report::Failed { error, code } => {
                complain(&error);
                Ok(ExitCode::from(code))
            }
        };
    }
    let env = env
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let supervised = supervise::start(&client, &request, program, env, &Streams::Inherited)?;
    warn(supervised.warnings());
    let code = supervised.wait()?;
    // Exit codes have eight bits.
    Ok(ExitCode::from(code as u8))
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        complain(&format!("warning: {warning}"));
    }
}

/// `KEY=VALUE`, or `KEY` alone for the value that it has here.
fn environment(settings: &[String]) -> Result<Vec<(String, String)>> {
    let mut env = Vec::new();
    for setting in settings {
        match setting.split_once('=') {
            Some(("", _)) => {
                return Err(invalid(format!(
                    "\"{setting}\" names no variable, write KEY=VALUE"
                )));
            }
            Some((name, value)) => env.push((name.to_owned(), value.to_owned())),
            // It is inherited anyway.
            None => {}
        }
    }
    if env
        .iter()
        .any(|(name, value)| name.contains('\0') || value.contains('\0'))
    {
        return Err(invalid("a variable cannot contain a zero byte"));
    }
    Ok(env)
}
