//! The configuration of a flow's server, made whole.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// The timers of RFC 3261. Whatever a flow says itself is written in its own time within braces: `ring = "{30s}"`.
const TIMERS: &str = "[timers]\nt1 = \"{500ms}\"\nt2 = \"{4s}\"\nt4 = \"{5s}\"\nc = \"{181s}\"\n";

const LISTEN: &str =
    "[[listen]]\naddress = \"{ip}:{port}\"\ntransports = [\"udp\"]\nspread = \"datagram\"\n";
const WORKERS: &str = "[workers]\ncount = 2\nreactors = 1\npin = \"none\"\n";
const MEMORY: &str = "[memory]\nlimit = \"32MiB\"\nsnapshot = \"off\"\n";

/// Addresses instead of names.
pub fn placed(config: &str, addresses: &HashMap<String, SocketAddr>) -> String {
    let mut text = config.to_owned();
    for (name, address) in addresses {
        text = text
            .replace(&format!("{{{name}}}"), &address.to_string())
            .replace(&format!("{{{name}.ip}}"), &address.ip().to_string())
            .replace(&format!("{{{name}.port}}"), &address.port().to_string());
    }
    text
}

/// A whole configuration: what every server needs, unless the flow says it, with times that are `scale` times shorter.
pub fn complete(config: &str, scale: u32) -> String {
    let mut text = String::new();
    for (section, words) in [
        ("[[listen]]", LISTEN),
        ("[workers]", WORKERS),
        ("[memory]", MEMORY),
        ("[timers]", TIMERS),
    ] {
        if !config.contains(section) {
            text.push_str(words);
        }
    }
    text.push_str(config);
    shortened(&text, scale)
}

/// `{30s}` as it is there: `3000ms`.
fn shortened(text: &str, scale: u32) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let time = after.split_once('}').and_then(|(inside, behind)| {
            let digits = inside.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let unit_ms = match &inside[digits.len()..] {
                "ms" => 1,
                "s" => 1000,
                "min" => 60_000,
                _ => return None,
            };
            Some((digits.parse::<u64>().ok()? * unit_ms, behind))
        });
        match time {
            Some((ms, behind)) => {
                let _ = write!(out, "{}ms", ms / u64::from(scale));
                rest = behind;
            }
            None => {
                out.push('{');
                rest = after;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shortened() {
        assert_eq!(
            shortened("c = \"{181s}\" {ip} { uri = 1 }", 10),
            "c = \"18100ms\" {ip} { uri = 1 }"
        );
        let whole = complete("[timers]\nt1 = \"{1s}\"\n", 10);
        assert!(whole.contains("t1 = \"100ms\"") && !whole.contains("t2"));
        assert!(whole.contains("{ip}:{port}"));
    }
}
