//! The store: what was acknowledged is there whatever happens, and a file that is no store is
//! refused in a sentence.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::Duration;

use netpath_tests::lab::{Lab, eventually, finish, run, start};

fn store(lab: &Lab) -> PathBuf {
    lab.dir().join("state/state.redb")
}

/// A store in which there is something, whose agent has ended.
fn lab_with_store() -> Lab {
    let mut lab = Lab::new();
    lab.netpath(&["network", "create", "net", "--subnet", "10.88.0.0/24"])
        .ok();
    lab.stop_agent();
    lab
}

fn refused(lab: &Lab, part: &str) -> String {
    let sentence = run(lab.agent_command()).refused();
    assert!(
        sentence.contains("state.redb") && sentence.contains(part),
        "{part}: {sentence}"
    );
    assert!(!sentence.contains("Caused by"), "{sentence}");
    sentence
}

#[test]
fn a_damaged_store_is_refused_at_any_length() {
    let mut lab = lab_with_store();
    let whole = fs::read(store(&lab)).unwrap();
    // (Cut where nothing is yet, it may be whole: that is tested at the store itself.)
    let sizes = [0, 1, 4, 9, 100, 319, 320, 511, 512, 4095, 4096, 5000];
    for size in sizes {
        fs::write(store(&lab), &whole[..size]).unwrap();
        refused(&lab, "");
        assert_eq!(
            fs::read(store(&lab)).unwrap().len(),
            size,
            "a file that is no store is left as it is"
        );
    }
    for garbage in [0x00, 0x5a, 0xff] {
        fs::write(store(&lab), vec![garbage; 8192]).unwrap();
        refused(&lab, "");
    }
    // A file of somebody else's.
    fs::write(store(&lab), "not a store\n".repeat(1000)).unwrap();
    refused(&lab, "");
    fs::write(store(&lab), &whole).unwrap();
    lab.start_agent();
    let shown = lab.json(&["network", "inspect", "net"]);
    assert_eq!(shown[0]["IPAM"]["Config"][0]["Subnet"], "10.88.0.0/24");
}

#[test]
fn a_store_that_cannot_be_written_is_refused() {
    let mut lab = lab_with_store();
    let folder = lab.dir().join("state");
    let path = folder.display().to_string();
    // Root may write whatever the mode says, but not on a file system that is read-only.
    lab.host(&["mount", "--bind", &path, &path]).ok();
    lab.host(&["mount", "-o", "remount,ro,bind", &path]).ok();
    let ran = run(lab.agent_command());
    lab.host(&["umount", &path]).ok();
    let sentence = ran.refused();
    assert!(
        sentence.contains("state") && sentence.to_lowercase().contains("read-only"),
        "{sentence}"
    );
    // A folder where the file should be.
    let kept = lab.dir().join("kept");
    fs::rename(store(&lab), &kept).unwrap();
    fs::create_dir(store(&lab)).unwrap();
    refused(&lab, "");
    fs::remove_dir(store(&lab)).unwrap();
    fs::rename(&kept, store(&lab)).unwrap();
    lab.start_agent();
    assert_eq!(lab.json(&["network", "inspect", "net"])[0]["Name"], "net");
    let mode = fs::metadata(store(&lab)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "commands may hold secrets");
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    const META: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    let lab = lab_with_store();
    let database = redb::Database::open(store(&lab)).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut meta = write.open_table(META).unwrap();
        meta.insert("schema", 9).unwrap();
    }
    write.commit().unwrap();
    drop(database);
    refused(&lab, "newer netpath (layout 9");
    let database = redb::Database::open(store(&lab)).unwrap();
    let read = redb::ReadableDatabase::begin_read(&database).unwrap();
    let networks: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("networks");
    let networks = read.open_table(networks).unwrap();
    assert!(networks.get("net").unwrap().is_some(), "it is as it was");
}

/// A change that was begun, and what is there if it was acknowledged.
struct Change {
    child: Child,
    network: String,
    makes: bool,
}

/// The agent is killed at any moment of a stream of changes: afterwards what was acknowledged is
/// there, and what was not is there as a whole or not at all.
#[test]
fn nothing_acknowledged_is_lost_by_kills_at_any_moment() {
    let mut lab = Lab::new();
    // What must be there; `None`: either way.
    let mut known: BTreeMap<String, Option<bool>> = BTreeMap::new();
    for round in 0u64..8 {
        let mut changes = Vec::new();
        for n in 0..4 {
            let network = format!("n{}", (round + n) % 6);
            let makes = known.get(&network) != Some(&Some(true));
            let child = start(if makes {
                let subnet = format!("10.90.{}.0/24", (round + n) % 6);
                lab.netpath_command(&["network", "create", &network, "--subnet", &subnet])
            } else {
                lab.netpath_command(&["network", "rm", &network])
            });
            changes.push(Change {
                child,
                network,
                makes,
            });
        }
        // Not the same moment in any two rounds.
        thread::sleep(Duration::from_millis(3 + 17 * round % 97));
        lab.kill_agent();
        for change in changes {
            let ran = finish(change.child);
            assert!(!ran.stderr.contains("panicked"), "{ran:?}");
            let state = (ran.code == Some(0)).then_some(change.makes);
            known.insert(change.network, state);
        }
        lab.start_agent();
        let listed = lab
            .netpath(&[
                "network",
                "ls",
                "--filter",
                "type=custom",
                "--format",
                "{{.Name}}",
            ])
            .ok();
        let there: Vec<&str> = listed.lines().collect();
        for (network, state) in &mut known {
            let is = there.contains(&network.as_str());
            if let Some(expected) = state {
                assert_eq!(is, *expected, "{network} in round {round}: {listed}");
            }
            *state = Some(is);
        }
        // What is there is whole: a device with an address, and nothing else is.
        let addresses = lab.host(&["ip", "-o", "-4", "addr", "show"]).ok();
        let gateways = addresses
            .lines()
            .filter(|line| line.contains("inet 10.90."));
        assert_eq!(gateways.count(), there.len(), "{addresses}");
    }
}

/// The same with containers and their addresses: each is leased to one, and none is lost.
#[test]
fn leases_survive_kills_and_are_freed_once() {
    let mut lab = Lab::new();
    // Few addresses, so that any that were lost would be missed.
    let net = ["network", "create", "net", "--subnet", "10.88.0.0/28"];
    lab.netpath(&[&net[..], &["--ip-range", "10.88.0.8/29"]].concat())
        .ok();
    for round in 0u64..4 {
        let mut running = Vec::new();
        for n in 0..3 {
            let name = format!("c{n}");
            let _ = lab.netpath(&["rm", "-f", &name]);
            let args = [
                "run",
                "-d",
                "--name",
                &name,
                "--network",
                "net",
                "--",
                "sleep",
                "600",
            ];
            running.push(start(lab.netpath_command(&args)));
        }
        thread::sleep(Duration::from_millis(11 + 31 * round % 120));
        lab.kill_agent();
        let codes: Vec<Option<i32>> = running.into_iter().map(|c| finish(c).code).collect();
        lab.start_agent();
        eventually("supervisors have given up or go on", || {
            let listed = lab.json(&["ps", "-a"]);
            let rows = listed.as_array().unwrap();
            rows.iter().all(|row| row["state"] != "created")
        });
        let listed = lab.json(&["ps"]);
        let rows = listed.as_array().unwrap();
        for (n, code) in codes.iter().enumerate() {
            let name = format!("c{n}");
            let runs = rows.iter().any(|row| row["name"] == name.as_str());
            assert!(
                runs || *code != Some(0),
                "{name} was acknowledged: {listed}"
            );
        }
        let shown = lab.json(&["network", "inspect", "net"]);
        let members = shown[0]["Containers"].as_object().unwrap();
        assert_eq!(members.len(), rows.len());
        let mut addresses: Vec<&str> = members
            .values()
            .map(|member| member["IPv4Address"].as_str().unwrap())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), rows.len(), "{shown}");
    }
    for n in 0..3 {
        let _ = lab.netpath(&["rm", "-f", &format!("c{n}")]);
    }
    // All addresses of the range but the gateway's and the broadcast address can be had.
    for n in 0..6 {
        lab.run(&format!("all{n}"), &["--network", "net"], &["sleep", "600"]);
    }
    let full = lab.netpath(&["run", "--rm", "--network", "net", "--", "true"]);
    assert!(full.stderr.contains("is free"), "{full:?}");
}
