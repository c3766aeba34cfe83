//! What the environment says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::enabled::Action;
use crate::names::NAMES;

#[derive(Debug, Default)]
pub(crate) struct Plan {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    action: Action,
    when: When,
    text: Option<Vec<u8>>,
    met: AtomicU64,
}

#[derive(Debug)]
enum When {
    Always,
    /// Only this time, in each process.
    Nth(u64),
    /// Only in the process that is the first to create this file.
    Once(PathBuf),
}

impl Plan {
    /// `once` is the folder for what happens once.
    pub(crate) fn parse(text: &str, once: Option<&Path>) -> Result<Self, String> {
        let entries = text.split(';').map(str::trim).filter(|e| !e.is_empty());
        Ok(Self {
            entries: entries
                .map(|entry| Entry::parse(entry, once))
                .collect::<Result<_, _>>()?,
        })
    }

    /// What to do at a point, with this message at hand.
    pub(crate) fn decide(&self, name: &str, at_hand: &[u8]) -> Option<Action> {
        let entry = self.entries.iter().find(|entry| {
            let text = entry.text.as_deref();
            entry.name == name && text.is_none_or(|text| contains(at_hand, text))
        })?;
        // Relaxed: a count, which orders nothing.
        let met = entry.met.fetch_add(1, Ordering::Relaxed) + 1;
        let now = match &entry.when {
            When::Always => true,
            When::Nth(nth) => *nth == met,
            When::Once(file) => File::create_new(file).is_ok(),
        };
        now.then_some(entry.action)
    }
}

impl Entry {
    fn parse(text: &str, once: Option<&Path>) -> Result<Self, String> {
        let (name, action) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is not NAME=KIND"))?;
        if !NAMES.contains(&name) {
            return Err(format!("there is no point `{name}`"));
        }
        let (action, condition) = match action.split_once("-if:") {
            Some((action, condition)) => (action, Some(condition.as_bytes().to_vec())),
            None => (action, None),
        };
        let (kind, when) = match action.split_once('@') {
            Some((kind, "once")) => {
                let folder = once.ok_or("`@once` needs TANDEM_FAILPOINTS_ONCE, a folder")?;
                (kind, When::Once(folder.join(name)))
            }
            Some((kind, nth)) => {
                let nth = nth.parse().map_err(|_| format!("`@{nth}` is no number"))?;
                (kind, When::Nth(nth))
            }
            None => (action, When::Always),
        };
        Ok(Self {
            name: name.to_owned(),
            action: parse_kind(kind)?,
            when,
            text: condition,
            met: AtomicU64::new(0),
        })
    }
}

fn parse_kind(kind: &str) -> Result<Action, String> {
    let unknown = || format!("`{kind}` is no kind of action");
    Ok(match kind {
        "abort" => Action::Abort,
        "panic" => Action::Panic,
        "kill" => Action::Kill,
        "segv" => Action::Segv,
        "stop" => Action::Stop,
        "hang" => Action::Hang,
        "error" => Action::Error,
        _ => {
            let ms = kind.strip_prefix("sleep:").ok_or_else(unknown)?;
            Action::Sleep(Duration::from_millis(ms.parse().map_err(|_| unknown())?))
        }
    })
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_by_count_and_by_message() {
        let plan = Plan::parse(
            "shm.insert.linked=abort@2; worker.served=segv@2-if:a=b@c ;;worker.settled=sleep:20",
            None,
        )
        .unwrap();
        let linked = || plan.decide("shm.insert.linked", b"");
        assert_eq!(
            (linked(), linked(), linked()),
            (None, Some(Action::Abort), None)
        );
        let served = |hand: &[u8]| plan.decide("worker.served", hand);
        assert_eq!(served(b"-a=b@c-"), None);
        assert_eq!((served(b"a=b"), served(b"")), (None, None));
        assert_eq!(served(b"a=b@c"), Some(Action::Segv));
        assert_eq!(served(b"a=b@c"), None);
        let sleep = Some(Action::Sleep(Duration::from_millis(20)));
        assert_eq!(plan.decide("worker.settled", b""), sleep);
        assert_eq!(plan.decide("worker.settled", b""), sleep);
        assert_eq!(plan.decide("worker.submitted", b""), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, wrong) in [
            ("x", "`x` is not NAME=KIND"),
            ("x=abort", "there is no point `x`"),
            ("worker.served=explode", "`explode` is no kind of action"),
            ("worker.served=sleep:x", "`sleep:x` is no kind of action"),
            ("worker.served=kill@x", "`@x` is no number"),
            (
                "worker.served=kill@once",
                "`@once` needs TANDEM_FAILPOINTS_ONCE, a folder",
            ),
        ] {
            assert_eq!(Plan::parse(text, None).unwrap_err(), wrong, "{text}");
        }
    }

    /// Two plans stand for two processes.
    #[test]
    fn once_in_all_processes() {
        let folder = std::env::temp_dir().join(format!("failpoint-once-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let text = "worker.served=kill@once-if:x;worker.begun=kill@once";
        let plans = [(); 2].map(|()| Plan::parse(text, Some(&folder)).unwrap());
        let decide = |n: usize, name: &str, hand: &[u8]| plans[n].decide(name, hand);
        let found = [
            decide(1, "worker.served", b"y"),
            decide(1, "worker.served", b"x"),
            decide(1, "worker.served", b"x"),
            decide(0, "worker.served", b"x"),
            decide(0, "worker.begun", b""),
        ];
        std::fs::remove_dir_all(&folder).unwrap();
        let kill = Some(Action::Kill);
        assert_eq!(found, [None, kill, None, None, kill]);
    }
}
