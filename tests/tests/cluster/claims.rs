//! Two nodes that are after the same.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use netpath::cluster::etcd::Access;
use netpath::cluster::settings::Wishes;
use netpath::cluster::state::State;
use netpath::cluster::{Claim, Cluster, Identity, plan, schema};
use netpath::ipam::{self, allocate};
use netpath::policy::Policy;
use netpath_tests::etcd::Etcd;
use netpath_tests::inside::inside;
use netpath_tests::lab::Lab;

async fn join(url: &str, node: &str) -> Arc<Cluster> {
    let wishes = Wishes {
        url: Some(url.into()),
        node: Some(node.into()),
        node_address: format!("192.0.2.{}", node.len()).parse().ok(),
        ..Wishes::default()
    };
    let settings = wishes.settings().expect("settings").expect("a cluster");
    let access = Access::new(&settings).expect("access");
    let identity = Identity { id: node.into() };
    let cluster = Arc::new(Cluster::new(settings, identity, Vec::new()));
    tokio::spawn(cluster.clone().run(access));
    while cluster.status().problem.is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster
}

fn network(state: &State) -> Result<schema::Network> {
    let taken: Vec<_> = state
        .networks()
        .flat_map(|(_, network)| network.subnets.iter().map(|subnet| subnet.prefix))
        .collect();
    // A large one, for a thousand addresses.
    let prefix = match taken.is_empty() {
        true => "10.7.0.0/20".parse()?,
        false => plan::choose_pool(&taken, &[])?,
    };
    Ok(schema::Network {
        id: "1".into(),
        vni: plan::choose_vni(state, None)?,
        port: 4789,
        subnets: ipam::plan(&[prefix], &[], &[], |_| false)?,
        mtu: None,
        policy: Policy::default(),
        labels: Default::default(),
        created: 0,
    })
}

async fn claim(cluster: &Cluster, name: &str) -> Result<IpAddr> {
    let subnet = cluster.read(|state| state.network(name).map(|entry| entry.record.subnets[0]));
    let subnet = subnet.expect("the network");
    // Both always want the first that is free.
    let choose = |taken: &BTreeSet<IpAddr>| Ok(vec![allocate(&subnet, taken, None)?]);
    let claim = Claim {
        choose: &choose,
        endpoint: schema::Endpoint {
            node: cluster.node().into(),
            container: "c".into(),
            mac: None,
            aliases: Vec::new(),
        },
    };
    Ok(cluster.claim(name, &claim).await?[0])
}

#[test]
fn two_nodes_get_a_thousand_addresses_and_networks_without_a_duplicate() {
    let lab = Lab::without_agent();
    let netns = lab.host_netns();
    let etcd = Etcd::start(&netns, "127.0.0.1");
    let url = etcd.url();
    inside(&netns, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (one, two) = (join(&url, "a").await, join(&url, "bb").await);
            one.create_network("blue", &network)
                .await
                .expect("a network");
            while two.read(|state| state.network("blue").is_none()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut all = BTreeSet::new();
            for _ in 0..500 {
                let (first, second) = tokio::join!(claim(&one, "blue"), claim(&two, "blue"));
                for address in [first, second] {
                    let address = address.expect("an address");
                    assert!(all.insert(address), "{address} twice");
                }
            }
            assert_eq!(all.len(), 1000);
            assert_eq!(etcd.keys("/netpath/v1/endpoints/blue/").len(), 1000);

            let mut vnis = BTreeSet::new();
            for nth in 0..20 {
                let names = [format!("x{nth}"), format!("y{nth}")];
                let (first, second) = tokio::join!(
                    one.create_network(&names[0], &network),
                    two.create_network(&names[1], &network)
                );
                vnis.insert(first.expect("a network").vni);
                vnis.insert(second.expect("a network").vni);
                let (first, second) = tokio::join!(
                    one.create_network("same", &network),
                    two.create_network("same", &network)
                );
                assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
                one.remove_network("same").await.expect("removed");
            }
            assert_eq!(vnis.len(), 40);
        });
    });
}
