//! What Docker calls its containers and networks.
//!
//! Docker does not tell a network driver. The command line asks Docker itself, when it shows
//! something of Docker's; the agent never does (see [`super`]). Without an answer there are the
//! numbers, which Docker's commands take as well.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;

use crate::api::client::Client;
use crate::api::types::{Container, Network};

/// Docker may be busy, or hang. Nobody shall wait for a name for long.
const PATIENCE: Duration = Duration::from_secs(2);
const SOCKET: &str = "/run/docker.sock";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerRow {
    #[serde(default)]
    names: Vec<String>,
    network_settings: Option<NetworkSettings>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default)]
    networks: HashMap<String, EndpointRow>,
}

#[derive(Deserialize)]
struct EndpointRow {
    #[serde(rename = "EndpointID", default)]
    endpoint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkRow {
    name: String,
    id: String,
}

/// Docker's socket, as its own command line finds it.
fn client() -> Client {
    let host = std::env::var("DOCKER_HOST").ok();
    let path = host
        .as_deref()
        .and_then(|host| host.strip_prefix("unix://"));
    Client::new(PathBuf::from(path.unwrap_or(SOCKET))).with_patience(PATIENCE)
}

/// Adds the names of those containers that are Docker's.
pub fn of_containers(containers: &mut [Container]) {
    if containers
        .iter()
        .all(|container| container.docker.is_none())
    {
        return;
    }
    let names = told(endpoints(&client()));
    for docker in containers.iter_mut().filter_map(|c| c.docker.as_mut()) {
        docker.name = names.get(&docker.id).cloned();
    }
}

/// Adds the names of those networks that are Docker's.
pub fn of_networks(networks: &mut [Network]) {
    if networks.iter().all(|network| network.docker.is_none()) {
        return;
    }
    let rows = client().get::<Vec<NetworkRow>>("/networks");
    let names = told(rows.map(|rows| rows.into_iter().map(|row| (row.id, row.name)).collect()));
    for docker in networks.iter_mut().filter_map(|n| n.docker.as_mut()) {
        docker.name = names.get(&docker.id).cloned();
    }
}

fn told(names: Result<HashMap<String, String>>) -> HashMap<String, String> {
    names.unwrap_or_else(|error| {
        log::info!("Docker does not tell its names: {error:#}");
        HashMap::new()
    })
}

/// Names of containers by the numbers of their endpoints.
fn endpoints(client: &Client) -> Result<HashMap<String, String>> {
    let rows: Vec<ContainerRow> = client.get("/containers/json")?;
    let mut names = HashMap::new();
    for row in rows {
        // Links are names, too: /other/alias.
        let own = (row.names.iter()).filter_map(|name| name.strip_prefix('/'));
        let Some(name) = own.clone().find(|name| !name.contains('/')) else {
            continue;
        };
        let networks = row.network_settings.map(|settings| settings.networks);
        for endpoint in networks.unwrap_or_default().into_values() {
            names.insert(endpoint.endpoint, name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn endpoints_have_the_names_of_their_containers() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let body = r#"[{"Names":["/other/alias","/web"],"NetworkSettings":{"Networks":
            {"a":{"EndpointID":"11"},"b":{"EndpointID":"22"}}}},
            {"Names":[],"NetworkSettings":null}]"#;
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let _ = client.read(&mut [0; 1024]).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            client.write_all((head + body).as_bytes()).unwrap();
        });
        let names = endpoints(&Client::new(&socket)).unwrap();
        server.join().unwrap();
        assert_eq!(names["11"], "web");
        assert_eq!(names["22"], "web");
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn without_docker_there_are_no_names() {
        let nowhere = Client::new("/nowhere/docker.sock").with_patience(PATIENCE);
        assert!(told(endpoints(&nowhere)).is_empty());
    }
}
