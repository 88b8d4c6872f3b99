//! What is seen of packets and what keeps them out: denied sources, events, explanations.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// `POST /v1/denied`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deny {
    /// A prefix, or an address.
    pub prefix: String,
    /// Even if it cuts something off.
    #[serde(default)]
    pub force: bool,
}

/// Answer to [`Deny`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DenialMade {
    /// The prefix.
    pub prefix: String,
    /// Uplinks that let it in all the same, each with the reason.
    pub warnings: Vec<String>,
}

/// A denied prefix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Denial {
    /// The prefix.
    pub prefix: String,
    /// Packets dropped.
    pub packets: u64,
    /// Their bytes, with Ethernet headers.
    pub bytes: u64,
}

/// `GET /v1/events`: what somebody wants to see; empty fields want all. The answer is one
/// [`EventRow`] a line, as long as the connection lasts.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Drops; without any choice both.
    pub drops: bool,
    /// Flows that begin and end.
    pub flows: bool,
    /// Protocols.
    pub proto: Vec<String>,
    /// Addresses or prefixes.
    pub addr: Vec<String>,
    /// Ports.
    pub port: Vec<u16>,
    /// A container.
    pub container: Option<String>,
    /// Reasons of drops.
    pub reason: Vec<String>,
}

/// Something that happened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventRow {
    /// `drop`, `new_flow`, `flow_end`; or `lost`: events that came too fast to be told.
    pub event: String,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// `container`, `uplink`, `gateway` or `xdp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Name of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Why it was dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the reason means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<String>,
    /// `masquerade` or `published`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// State of the flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Protocol; missing if the packet could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proto: Option<String>,
    /// Source with port, as far as it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Destination with port, as far as it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The flow's source after the translation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated_source: Option<String>,
    /// The flow's destination after the translation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated_destination: Option<String>,
    /// Length of the dropped packet with its Ethernet header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
    /// How many events were lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// `POST /v1/explain`: what would become of a packet?
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// Who sends: a container, an address, or `host`.
    pub source: String,
    /// Whom it dials: a container or an address.
    pub destination: String,
    /// `tcp:PORT`, `udp:PORT`, `icmp`, or a number.
    pub proto: String,
    /// The packet's source address, if it is not the sender's own.
    #[serde(default)]
    pub source_address: Option<IpAddr>,
    /// The packet's source port or echo identifier; without, one of a new connection.
    #[serde(default)]
    pub source_port: Option<u16>,
}

/// Answer to [`Explain`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Explanation {
    /// The packet's source address.
    pub source: String,
    /// The packet's destination address.
    pub destination: String,
    /// As it was asked.
    pub proto: String,
    /// What is decided where.
    pub steps: Vec<Step>,
    /// `delivered` (to a container), `sent` (out of an uplink), `host` (to the host's stack),
    /// `local` (never leaves the container) or `dropped`.
    pub verdict: String,
    /// The verdict in words.
    pub text: String,
    /// The reason of a drop, as in `netpath drops`.
    pub reason: Option<String>,
    /// The way out, where there is one.
    pub hint: Option<String>,
    /// The container that gets it.
    pub to_container: Option<String>,
    /// The device by which it goes there.
    pub to_device: Option<String>,
    /// Source after the translation, if that is another.
    pub translated_source: Option<String>,
    /// Destination after the translation, if that is another.
    pub translated_destination: Option<String>,
    /// What will become of the answers.
    pub warnings: Vec<String>,
}

/// A step of an [`Explanation`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Step {
    /// The program, or what else decides.
    pub hook: String,
    /// The device at which it does.
    pub device: Option<String>,
    /// What it finds.
    pub text: String,
}
