//! `netpath nodes`

use anyhow::Result;

use super::Context;
use crate::api::types::Nodes;
use crate::output::{Format, print, print_json, table};

pub fn run(context: &Context) -> Result<()> {
    let nodes: Nodes = context.client().get("/v1/nodes")?;
    if context.output == Format::Json {
        return print_json(&nodes);
    }
    let rows: Vec<Vec<String>> = nodes
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.name.clone(),
                node.address.to_string(),
                node.state.clone(),
                node.endpoints.to_string(),
                node.version.clone(),
            ]
        })
        .collect();
    let mut text = table(&["NAME", "ADDRESS", "STATE", "ENDPOINTS", "VERSION"], &rows);
    if let Some(problem) = &nodes.cluster.problem {
        text.push_str(&format!(
            "the store {} is away: {problem}; this is what was known before\n",
            nodes.cluster.store
        ));
    }
    print(&text)
}
