//! What Docker sends to a network driver (libnetwork's remote driver, docs/remote.md there).
//!
//! Names are those of Go's structures; what a Go program leaves empty may be missing, `null`,
//! or empty. Fields that are of no use here are not read.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::problem::invalid;

/// What Docker's user wrote after `-o`, in the options of a network.
const GENERIC: &str = "com.docker.network.generic";
const INTERNAL: &str = "com.docker.network.internal";
/// How interfaces of a network's containers are named, less the number.
const PREFIX: &str = "com.docker.network.container_iface_prefix";
const PORTMAP: &str = "com.docker.network.portmap";
const MAC: &str = "com.docker.network.endpoint.macaddress";

/// Options: Docker's own and drivers' together.
pub type Options = Map<String, Value>;

/// `null` is nothing.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A subnet, as Docker's address management gave it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct IpamData {
    /// The subnet.
    #[serde(default, deserialize_with = "or_default")]
    pub pool: String,
    /// The gateway's address with the prefix length; empty if there is none.
    #[serde(default, deserialize_with = "or_default")]
    pub gateway: String,
}

/// `CreateNetwork` and `GwAllocCheck`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateNetwork {
    /// Docker's number of the network; `GwAllocCheck` has none.
    #[serde(rename = "NetworkID", default, deserialize_with = "or_default")]
    pub network: String,
    /// Options.
    #[serde(default, deserialize_with = "or_default")]
    pub options: Options,
    /// IPv4 subnets.
    #[serde(rename = "IPv4Data", default, deserialize_with = "or_default")]
    pub ipv4: Vec<IpamData>,
    /// IPv6 subnets.
    #[serde(rename = "IPv6Data", default, deserialize_with = "or_default")]
    pub ipv6: Vec<IpamData>,
}

impl CreateNetwork {
    /// Whether nothing is to leave it.
    ///
    /// # Errors
    /// The option is neither true nor false.
    pub fn internal(&self) -> Result<bool> {
        match self.options.get(INTERNAL) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(internal)) => Ok(*internal),
            Some(other) => Err(invalid(format!(
                "option {INTERNAL} is {other} and neither true nor false"
            ))),
        }
    }

    /// The user's options, and of them what the interfaces are to be called.
    ///
    /// # Errors
    /// They are no texts, numbers, or true or false.
    pub fn user_options(&self) -> Result<(BTreeMap<String, String>, Option<String>)> {
        let mut options = BTreeMap::new();
        match self.options.get(GENERIC) {
            None | Some(Value::Null) => {}
            Some(Value::Object(generic)) => {
                for (key, value) in generic {
                    let text = match value {
                        Value::String(text) => text.clone(),
                        Value::Bool(_) | Value::Number(_) => value.to_string(),
                        _ => {
                            return Err(invalid(format!("option {key} is {value} and no text")));
                        }
                    };
                    options.insert(key.clone(), text);
                }
            }
            Some(other) => {
                return Err(invalid(format!("the options are {other} and no object")));
            }
        }
        let prefix = options.remove(PREFIX);
        Ok((options, prefix))
    }
}

/// A container's interface as far as Docker decides on it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Interface {
    /// IPv4 address with prefix length.
    #[serde(default, deserialize_with = "or_default")]
    pub address: String,
    /// IPv6 address with prefix length.
    #[serde(rename = "AddressIPv6", default, deserialize_with = "or_default")]
    pub address6: String,
    /// MAC address; empty leaves the choice to the driver.
    #[serde(default, deserialize_with = "or_default")]
    pub mac_address: String,
}

/// All methods about an endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Endpoint {
    /// Docker's number of the network.
    #[serde(rename = "NetworkID", default, deserialize_with = "or_default")]
    pub network: String,
    /// Docker's number of the endpoint; the methods about networks have none.
    #[serde(rename = "EndpointID", default, deserialize_with = "or_default")]
    pub endpoint: String,
    /// `CreateEndpoint`: the interface.
    #[serde(default, deserialize_with = "or_default")]
    pub interface: Interface,
    /// `Join`: file of the container's namespace, which may be yet to come.
    #[serde(default, deserialize_with = "or_default")]
    pub sandbox_key: String,
    /// Options.
    #[serde(default, deserialize_with = "or_default")]
    pub options: Options,
}

/// A published port as Docker writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortBinding {
    /// Number of the protocol in an IP header.
    #[serde(default)]
    pub proto: u8,
    /// The container's port.
    #[serde(default)]
    pub port: u16,
    /// Address of the host; empty for all.
    #[serde(rename = "HostIP", default, deserialize_with = "or_default")]
    pub host_ip: String,
    /// The host's port, or the first of those to choose from; 0 for any.
    #[serde(default)]
    pub host_port: u16,
    /// The last of those to choose from; 0 if there is no choice.
    #[serde(default)]
    pub host_port_end: u16,
}

impl Endpoint {
    /// The published ports.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn port_map(&self) -> Result<Vec<PortBinding>> {
        match self.options.get(PORTMAP) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(list) => serde_json::from_value(list.clone())
                .map_err(|error| invalid(format!("the list of ports cannot be read: {error}"))),
        }
    }

    /// The MAC address that Docker decided on, and whether the driver has to repeat it.
    ///
    /// # Errors
    /// It is none.
    pub fn mac(&self) -> Result<Option<([u8; 6], bool)>> {
        let text = &self.interface.mac_address;
        if !text.is_empty() {
            return parse_mac(text).map(|mac| Some((mac, false)));
        }
        // A slice of bytes, which Go writes in base64.
        match self.options.get(MAC) {
            Some(Value::String(text)) if !text.is_empty() => {
                let wrong = || invalid(format!("\"{}\" is no MAC address", text.escape_debug()));
                let bytes = base64(text).ok_or_else(wrong)?;
                let mac = bytes.try_into().map_err(|_| wrong())?;
                check_mac(mac).map(|mac| Some((mac, true)))
            }
            _ => Ok(None),
        }
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| {
            u8::from_str_radix(byte, 16)
                .ok()
                .filter(|_| byte.len() == 2)
        })
        .collect();
    let mac = bytes.and_then(|bytes| bytes.try_into().ok());
    check_mac(mac.ok_or_else(|| invalid(format!("\"{}\" is no MAC address", text.escape_debug())))?)
}

/// The lowest bit of the first byte is that of groups (IEEE 802).
fn check_mac(mac: [u8; 6]) -> Result<[u8; 6]> {
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(invalid(
            "the MAC address cannot be an interface's, it is a group's or zero",
        ));
    }
    Ok(mac)
}

/// Decodes base64 (RFC 4648, 4) with its padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        Some(u32::from(value))
    };
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for (nth, chunk) in text.as_bytes().chunks(4).enumerate() {
        let padding = chunk.iter().rev().take_while(|byte| **byte == b'=').count();
        let last = (nth + 1) * 4 == text.len();
        if padding > 2 || padding > 0 && !last {
            return None;
        }
        let mut bits = 0;
        for byte in &chunk[..4 - padding] {
            bits = bits << 6 | digit(*byte)?;
        }
        bits <<= 6 * padding;
        bytes.extend_from_slice(&bits.to_be_bytes()[1..4 - padding]);
    }
    Some(bytes)
}

/// Checks a number of Docker's: letters and digits, as it is going to be (a part of) a name.
///
/// # Errors
/// A sentence that quotes it.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    if (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(invalid(format!(
        "\"{}\" is no number of a {what}",
        id.chars().take(80).collect::<String>().escape_debug()
    )))
}

/// A number as Docker shows it.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn go_leaves_much_empty() {
        let text = r#"{"NetworkID":"ab","Options":null,"IPv4Data":[{"AddressSpace":"LocalDefault",
            "Pool":"10.1.0.0/16","Gateway":null,"AuxAddresses":null}],"IPv6Data":null}"#;
        let new: CreateNetwork = serde_json::from_str(text).unwrap();
        assert_eq!(new.ipv4[0].pool, "10.1.0.0/16");
        assert!(new.ipv4[0].gateway.is_empty() && new.ipv6.is_empty());
        assert!(!new.internal().unwrap());
        assert_eq!(new.user_options().unwrap(), (BTreeMap::new(), None));
    }

    #[test]
    fn options_are_those_of_the_user() {
        let text = r#"{"NetworkID":"ab","Options":{"com.docker.network.internal":true,
            "com.docker.network.enable_ipv6":false,"com.docker.network.generic":
            {"com.docker.network.container_iface_prefix":"net","a":"b","c":true,"d":7}}}"#;
        let new: CreateNetwork = serde_json::from_str(text).unwrap();
        assert!(new.internal().unwrap());
        let (options, prefix) = new.user_options().unwrap();
        assert_eq!(prefix.as_deref(), Some("net"));
        let expected = [("a", "b"), ("c", "true"), ("d", "7")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(options, BTreeMap::from(expected));
        for wrong in [
            r#"{"Options":{"com.docker.network.generic":{"a":[1]}}}"#,
            r#"{"Options":{"com.docker.network.generic":"x"}}"#,
        ] {
            let new: CreateNetwork = serde_json::from_str(wrong).unwrap();
            assert!(new.user_options().is_err(), "{wrong}");
        }
    }

    #[test]
    fn mac_addresses_come_in_two_forms() {
        let mac = |json: &str| serde_json::from_str::<Endpoint>(json).unwrap().mac();
        let wanted = [2, 0x42, 0xac, 0x11, 0, 2];
        assert_eq!(
            mac(r#"{"Interface":{"MacAddress":"02:42:ac:11:00:02"}}"#).unwrap(),
            Some((wanted, false))
        );
        let option = |text: &str| {
            format!(r#"{{"Options":{{"com.docker.network.endpoint.macaddress":"{text}"}}}}"#)
        };
        assert_eq!(mac(&option("AkKsEQAC")).unwrap(), Some((wanted, true)));
        assert_eq!(mac(r#"{"Interface":null,"Options":null}"#).unwrap(), None);
        for wrong in ["AkKsEQA=", "AkKsEQACAA==", "not base", "=AAA", "AQAAAAAA"] {
            assert!(mac(&option(wrong)).is_err(), "{wrong}");
        }
        for wrong in [
            "02:42:ac:11:00",
            "2:42:ac:11:00:02",
            "01:00:5e:00:00:01",
            "x",
        ] {
            let json = format!(r#"{{"Interface":{{"MacAddress":"{wrong}"}}}}"#);
            assert!(mac(&json).is_err(), "{wrong}");
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(base64(text).unwrap(), bytes.as_bytes());
        }
    }

    #[test]
    fn numbers_are_letters_and_digits() {
        assert!(check_id("network", &"0f".repeat(32)).is_ok());
        for wrong in ["", "../../etc", "a b", &"0".repeat(65), "a\n"] {
            let error = check_id("network", wrong).unwrap_err().to_string();
            assert!(error.contains("no number of a network"), "{error}");
        }
        assert_eq!(short("0123456789abcdef"), "0123456789ab");
        assert_eq!(short("ab"), "ab");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = base64(&text);
            let _ = parse_mac(&text);
            let _ = check_id("network", &text);
            let _ = short(&text);
        }
    }
}
