//! `resolv.conf(5)`: the servers of the system, and the options that concern how they are asked.

use std::{net::IpAddr, time::Duration};

/// What the file says; what it does not say is `None`. `search` and `ndots` do not apply: names in SIP are whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub servers: Vec<Listed>,
    pub timeout: Option<Duration>,
    pub attempts: Option<u8>,
    pub rotate: bool,
}

/// A server as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub ip: IpAddr,
    /// The interface of a link-local address, by name or number: `fe80::1%eth0`.
    pub zone: Option<String>,
}

impl Listed {
    fn parse(word: &str) -> Option<Self> {
        let (ip, zone) = match word.split_once('%') {
            Some((ip, zone)) => (ip, Some(zone.to_owned())),
            None => (word, None),
        };
        let ip = ip.parse().ok()?;
        Some(Self { ip, zone })
    }
}

impl ResolvConf {
    /// Lines that make no sense are skipped, as everybody does.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(Listed::parse);
                    if let Some(server) = server.filter(|server| !conf.servers.contains(server)) {
                        conf.servers.push(server);
                    }
                }
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        conf
    }

    /// Bounds as in the C library.
    fn option(&mut self, word: &str) {
        let number = |text: &str| text.parse::<u64>().ok();
        if word == "rotate" {
            self.rotate = true;
        } else if let Some(n) = word.strip_prefix("timeout:").and_then(number) {
            self.timeout = Some(Duration::from_secs(n.clamp(1, 30)));
        } else if let Some(n) = word.strip_prefix("attempts:").and_then(number) {
            self.attempts = u8::try_from(n.clamp(1, 5)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_options() {
        let conf = ResolvConf::parse(
            "# comment\nsearch example.com\nnameserver 192.0.2.1\nnameserver 2001:db8::1 ; two\nnameserver nonsense\n\
             nameserver 192.0.2.1\nnameserver fe80::1%eth0\noptions ndots:3 timeout:2 attempts:99 rotate edns0\nnameserver\n",
        );
        let listed = |ip: &str, zone: Option<&str>| Listed {
            ip: ip.parse().unwrap(),
            zone: zone.map(str::to_owned),
        };
        assert_eq!(
            conf.servers,
            [
                listed("192.0.2.1", None),
                listed("2001:db8::1", None),
                listed("fe80::1", Some("eth0"))
            ]
        );
        assert_eq!(conf.timeout, Some(Duration::from_secs(2)));
        assert_eq!((conf.attempts, conf.rotate), (Some(5), true));
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
    }
}
