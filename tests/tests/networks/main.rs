//! `netpath network`, with Docker's words.

mod devices;
mod lists;
mod refused;
mod subnets;

use netpath_tests::lab::Lab;
use serde_json::Value;

/// What `network inspect` shows of one network.
fn inspect(lab: &Lab, name: &str) -> Value {
    lab.json(&["network", "inspect", name])[0].clone()
}

fn names(lab: &Lab, filters: &[&str]) -> Vec<String> {
    let mut args = vec!["network", "ls", "--format", "{{.Name}}"];
    args.extend(filters.iter().flat_map(|filter| ["--filter", filter]));
    let text = lab.netpath(&args).ok();
    text.lines().map(str::to_owned).collect()
}

fn create(lab: &Lab, args: &[&str]) -> String {
    let id = lab.netpath(&[&["network", "create"], args].concat()).ok();
    id.trim().to_owned()
}
