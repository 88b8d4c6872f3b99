//! `netpath monitor`

use anyhow::{Context as _, Result};

use super::{Context, escape};
use crate::api::types::EventRow;
use crate::output::{Format, complain, print_more};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only packets that are dropped [default: drops and flows]
    #[arg(long)]
    drops: bool,
    /// Only flows that begin and end [default: drops and flows]
    #[arg(long)]
    flows: bool,
    /// Only these protocols: tcp, udp, sctp, icmp, icmpv6 or a number
    #[arg(long, value_name = "PROTO")]
    proto: Vec<String>,
    /// Only what comes from or goes to these addresses or prefixes, translated or not
    #[arg(long, value_name = "IP|CIDR")]
    addr: Vec<String>,
    /// Only what comes from or goes to these ports, translated or not
    #[arg(long, value_name = "PORT")]
    port: Vec<u16>,
    /// Only what concerns this container
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Only drops for these reasons, as "netpath drops --all" names them
    #[arg(long, value_name = "REASON")]
    reason: Vec<String>,
}

impl Args {
    fn query(&self) -> String {
        let mut pairs = Vec::new();
        let mut add = |key: &str, value: &str| pairs.push(format!("{key}={}", escape(value)));
        if self.drops {
            add("drops", "true");
        }
        if self.flows {
            add("flows", "true");
        }
        // Lists are one value each: none of their elements has a comma.
        let ports: Vec<String> = self.port.iter().map(ToString::to_string).collect();
        for (key, values) in [
            ("proto", &self.proto),
            ("addr", &self.addr),
            ("port", &ports),
            ("reason", &self.reason),
        ] {
            if !values.is_empty() {
                add(key, &values.join(","));
            }
        }
        if let Some(container) = &self.container {
            add("container", container);
        }
        pairs.join("&")
    }
}

pub fn run(args: &Args, context: &Context) -> Result<()> {
    let path = format!("/v1/events?{}", args.query());
    let begun = || eprintln!("watching, end with Ctrl-C");
    context.client().follow(&path, begun, |line| {
        if context.output == Format::Json {
            return print_more(&format!("{line}\n"));
        }
        let row: EventRow =
            serde_json::from_str(line).context("the agent told something unknown")?;
        match row.count {
            Some(lost) => {
                complain(&format!("{lost} events came too fast and are not shown"));
                Ok(true)
            }
            None => print_more(&format!("{}\n", sentence(&row))),
        }
    })
}

/// An event in a line.
fn sentence(row: &EventRow) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let time = row.time.map_or_else(String::new, clock);
    let ends = format!(
        "{} {} -> {}",
        or_dash(&row.proto),
        or_dash(&row.source),
        or_dash(&row.destination)
    );
    let place = format!("{}/{}", or_dash(&row.hook), or_dash(&row.device));
    if row.event == "drop" {
        return format!(
            "{time} drop      {place} {ends} {} bytes: {} ({})",
            row.bytes.unwrap_or_default(),
            or_dash(&row.reason),
            or_dash(&row.meaning)
        );
    }
    let what = if row.event == "new_flow" {
        "new flow"
    } else {
        "flow end"
    };
    format!(
        "{time} {what}  {} {ends} as {} -> {} {}",
        or_dash(&row.kind),
        or_dash(&row.translated_source),
        or_dash(&row.translated_destination),
        or_dash(&row.state)
    )
}

/// Time of day (UTC) of milliseconds since 1970.
fn clock(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        milliseconds % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_line() {
        let drop = EventRow {
            event: "drop".into(),
            time: Some(86_399_007),
            hook: Some("container".into()),
            reason: Some("no_route".into()),
            ..EventRow::default()
        };
        assert_eq!(
            sentence(&drop),
            "23:59:59.007 drop      container/- - - -> - 0 bytes: no_route (-)"
        );
    }
}
