//! Names of containers and networks.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

use crate::problem::{invalid, quoted};

/// Longest name in bytes: what fits into a host name (RFC 1035).
const LONGEST: usize = 63;

/// Checks a name: letters, digits, `_`, `.` and `-`, beginning with a letter or digit, so
/// that it can be a file name, a host name and an argument.
///
/// # Errors
/// A sentence that quotes it.
pub fn check(what: &str, name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    if first && name.chars().all(legal) && name.len() <= LONGEST {
        return Ok(());
    }
    Err(invalid(format!(
        "{} cannot name a {what}: use up to {LONGEST} letters, digits, \"_\", \".\" and \
         \"-\", beginning with a letter or a digit",
        quoted(name)
    )))
}

/// Checks a host name, which unlike a container's name may be longer.
///
/// # Errors
/// A sentence that quotes it.
pub fn check_hostname(name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    // 64 is the kernel's limit (__NEW_UTS_LEN).
    if !name.is_empty() && name.len() <= 64 && name.chars().all(legal) {
        return Ok(());
    }
    Err(invalid(format!(
        "\"{}\" is not a host name: use up to 64 letters, digits, \".\" and \"-\"",
        name.escape_debug()
    )))
}

/// Random bytes from the kernel.
///
/// # Errors
/// `/dev/urandom` cannot be read.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes)
}

/// The id of something for its whole life: 64 hexadecimal digits, as Docker has them.
///
/// # Errors
/// `/dev/urandom` cannot be read.
pub fn uid() -> Result<String> {
    Ok(random::<32>()?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// As much of an id as is shown, as with Docker.
const SHORT_ID: usize = 12;

/// The beginning of an id: the name of a container that was given none, and a name in DNS for
/// all. Nothing if there is no id.
pub fn short_id(uid: &str) -> Option<&str> {
    uid.get(..SHORT_ID)
}

/// Whether a word could be an id or the beginning of one.
pub fn could_be_id(word: &str) -> bool {
    (1..=64).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Checks a word by which a user calls something: a name, an id or the beginning of one.
///
/// # Errors
/// A sentence that quotes it.
pub fn check_word(what: &str, word: &str) -> Result<()> {
    // An id is longer than any name.
    if could_be_id(word) {
        return Ok(());
    }
    check(what, word)
}

/// A random MAC address: unicast, locally administered, beginning with 02 like those of
/// most container interfaces.
///
/// # Errors
/// `/dev/urandom` cannot be read.
pub fn random_mac() -> Result<[u8; 6]> {
    let mut mac = random::<6>()?;
    mac[0] = 0x02;
    Ok(mac)
}

/// Reads a MAC address of one interface: six bytes in hexadecimal, separated by colons or
/// dashes.
///
/// # Errors
/// A sentence that quotes it.
pub fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let refuse = |why: &str| {
        Err(invalid(format!(
            "\"{}\" {why}, write one like 02:42:ac:11:00:02",
            text.escape_debug()
        )))
    };
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let digits = parts.next().unwrap_or_default();
        let hexadecimal = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        match u8::from_str_radix(digits, 16) {
            Ok(value) if hexadecimal => *byte = value,
            _ => return refuse("is no MAC address"),
        }
    }
    if parts.next().is_some() {
        return refuse("is no MAC address");
    }
    if mac[0] & 1 != 0 {
        return refuse("is a MAC address of a group");
    }
    if mac == [0; 6] {
        return refuse("is nobody's MAC address");
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "web-1", "9lives", "A.b_c", &"x".repeat(63)] {
            assert!(check("container", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "-x",
            "_x",
            "a b",
            "a/b",
            "é",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(check("container", bad).is_err(), "{bad:?}");
        }
        let id = uid().unwrap();
        assert!(check("network", short_id(&id).unwrap()).is_ok());
        assert!(check_word("container", &id).is_ok() && check("container", &id).is_err());
        assert!(check_word("container", "a/b").is_err() && short_id("").is_none());
        assert_eq!(random_mac().unwrap()[0] & 3, 2);
    }

    #[test]
    fn mac_addresses() {
        assert_eq!(
            parse_mac("02:42:AC:11:00:02").unwrap(),
            [2, 66, 172, 17, 0, 2]
        );
        assert_eq!(parse_mac("02-00-00-00-00-01").unwrap(), [2, 0, 0, 0, 0, 1]);
        for bad in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:0:2",
            "02:42:ac:11:00:0g",
            "+2:42:ac:11:00:02",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}
