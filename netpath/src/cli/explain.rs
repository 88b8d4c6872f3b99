//! `netpath explain`

use std::net::IpAddr;

use anyhow::Result;

use super::Context;
use crate::api::types::{Explain, Explanation};
use crate::output::{Format, print, print_json, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who sends: a container, an address, or "host" for a process of this host
    source: String,
    /// Whom it dials: a container or an address
    destination: String,
    /// tcp:PORT, udp:PORT, sctp:PORT, icmp, or the number of another protocol
    #[arg(value_name = "PROTO[:PORT]")]
    proto: String,
    /// The source address that the packet has, if it is not the sender's own
    #[arg(long = "source", value_name = "IP")]
    source_address: Option<IpAddr>,
    /// The source port (or echo identifier): a packet of a connection that there is
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
}

pub fn run(args: Args, context: &Context) -> Result<()> {
    let question = Explain {
        source: args.source,
        destination: args.destination,
        proto: args.proto,
        source_address: args.source_address,
        source_port: args.source_port,
    };
    let answer: Explanation = context.client().post("/v1/explain", &question)?;
    if context.output == Format::Json {
        return print_json(&answer);
    }
    let rows: Vec<Vec<String>> = answer
        .steps
        .iter()
        .enumerate()
        .map(|(number, step)| {
            let place = match &step.device {
                Some(device) => format!("{} at {device}", step.hook),
                None => step.hook.clone(),
            };
            vec![(number + 1).to_string(), place, step.text.clone()]
        })
        .collect();
    let mut text = table(&["", "WHERE", "WHAT"], &rows);
    let reason = answer.reason.map(|reason| format!(" ({reason})"));
    text.push_str(&format!(
        "verdict: {}{}: {}\n",
        answer.verdict,
        reason.unwrap_or_default(),
        answer.text
    ));
    if let Some(hint) = answer.hint {
        text.push_str(&format!("way out: {hint}\n"));
    }
    for warning in answer.warnings {
        text.push_str(&format!("but: {warning}\n"));
    }
    print(&text)
}
