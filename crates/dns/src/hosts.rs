//! Addresses of names, as far as they need no network: the hosts file (`hosts(5)`).

use std::{collections::HashMap, net::IpAddr};

/// Names of the hosts file, lower case.
#[derive(Debug, Default)]
pub struct Hosts(HashMap<String, Vec<IpAddr>>);

/// Most names that are read.
const NAMES_MAX: usize = 100_000;

impl Hosts {
    /// `address name...` lines; `#` begins a comment; lines that make no sense are skipped, as everybody does.
    pub fn parse(text: &str) -> Self {
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
                continue;
            };
            for name in words {
                if names.len() < NAMES_MAX {
                    names
                        .entry(name.to_ascii_lowercase())
                        .or_default()
                        .push(address);
                }
            }
        }
        Self(names)
    }

    /// The addresses of a name.
    pub fn lookup(&self, name: &str) -> &[IpAddr] {
        self.0
            .get(&name.trim_end_matches('.').to_ascii_lowercase())
            .map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases() {
        let hosts = Hosts::parse(
            "127.0.0.1 localhost Local\n::1 localhost # six\nnonsense here\n10.0.0.1 gw.example.\n",
        );
        assert_eq!(
            hosts.lookup("LOCALHOST."),
            [
                "127.0.0.1".parse::<IpAddr>().unwrap(),
                "::1".parse().unwrap()
            ]
        );
        assert_eq!(hosts.lookup("local").len(), 1);
        assert!(hosts.lookup("here").is_empty());
    }
}
