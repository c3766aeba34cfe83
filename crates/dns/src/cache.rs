//! Answers for as long as they are good, and a while longer for when nobody can be asked (RFC 8767).

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use stdx::Instant;

use crate::{
    settings::Settings,
    wire::{Data, Found, Question},
};

/// What is known about a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Data(Rc<Data>),
    /// There is nothing (RFC 2308).
    Nothing,
    /// Nobody could tell.
    Failed,
}

/// For how long a failure is not looked into again (RFC 9520 §3.2: at least 1 s).
const FAILED: Duration = Duration::from_secs(2);
/// For how long stale data are used before the servers are asked again (RFC 8767 §5).
const STALE_RECHECK: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Entry {
    known: Known,
    /// Good until then.
    fresh: Instant,
    /// Usable in need until then.
    stale: Instant,
    /// The servers failed: until then the stale data are used without asking.
    recheck: Instant,
}

/// What the cache has for a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    Fresh(Known),
    /// Too old, but the servers could not be asked a moment ago.
    Rechecked(Known),
    /// Too old; ask, and use it if there is no answer.
    Stale(Known),
    Miss,
}

/// A bounded cache. What ends first goes first.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: BTreeMap<Question, Entry>,
    /// By the end of their use.
    ends: BTreeSet<(Instant, Question)>,
}

impl Cache {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.ends.clear();
    }

    pub(crate) fn get(&self, now: Instant, question: &Question) -> Cached {
        let Some(entry) = self.entries.get(question) else {
            return Cached::Miss;
        };
        let known = || entry.known.clone();
        if now < entry.fresh {
            Cached::Fresh(known())
        } else if now >= entry.stale {
            Cached::Miss
        } else if now < entry.recheck {
            Cached::Rechecked(known())
        } else {
            Cached::Stale(known())
        }
    }

    /// Keeps what a server said; returns it as it is known from now on.
    pub(crate) fn put(
        &mut self,
        now: Instant,
        settings: &Settings,
        question: &Question,
        found: Found,
    ) -> Known {
        let (known, fresh) = match found {
            Found::Data(data, seconds) => {
                let lifetime = Duration::from_secs(seconds.into());
                let least = settings.ttl_min.min(settings.ttl_max);
                (
                    Known::Data(Rc::new(data)),
                    lifetime.clamp(least, settings.ttl_max),
                )
            }
            Found::Nothing(seconds) => {
                let lifetime = Duration::from_secs(seconds.unwrap_or(0).into());
                let least = settings.ttl_min.min(settings.negative_ttl_max);
                (
                    Known::Nothing,
                    lifetime.clamp(least, settings.negative_ttl_max),
                )
            }
            // An alias is followed before anything is kept.
            Found::Alias(..) => (Known::Failed, FAILED),
        };
        // That there is nothing is never used beyond its time: the name may have come to life.
        let extra = match known {
            Known::Data(_) => settings.stale_max,
            Known::Nothing | Known::Failed => Duration::ZERO,
        };
        self.insert(now, settings, question, known.clone(), (fresh, extra));
        known
    }

    /// Notes that nobody could answer. Stale data go on being used, for a while without asking.
    pub(crate) fn fail(&mut self, now: Instant, settings: &Settings, question: &Question) -> Known {
        if let Some(entry) = self.entries.get_mut(question)
            && now < entry.stale
            && entry.known != Known::Failed
        {
            entry.recheck = now + STALE_RECHECK;
            return entry.known.clone();
        }
        let lifetime = (FAILED, Duration::ZERO);
        self.insert(now, settings, question, Known::Failed, lifetime);
        Known::Failed
    }

    fn insert(
        &mut self,
        now: Instant,
        settings: &Settings,
        question: &Question,
        known: Known,
        (fresh, extra): (Duration, Duration),
    ) {
        self.remove(question);
        if fresh + extra == Duration::ZERO || settings.cache_entries_max == 0 {
            return;
        }
        while self.entries.len() >= settings.cache_entries_max {
            let Some((_, first)) = self.ends.first().cloned() else {
                break;
            };
            self.remove(&first);
        }
        let fresh = now + fresh;
        let stale = fresh + extra;
        self.ends.insert((stale, question.clone()));
        let entry = Entry {
            known,
            fresh,
            stale,
            recheck: Instant::ZERO,
        };
        self.entries.insert(question.clone(), entry);
    }

    fn remove(&mut self, question: &Question) {
        if let Some(entry) = self.entries.remove(question) {
            self.ends.remove(&(entry.stale, question.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Kind, host_name};

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 * (1000 + seconds))
    }

    fn question(name: &str) -> Question {
        Question {
            name: host_name(name.as_bytes()).unwrap(),
            kind: Kind::A,
        }
    }

    fn data(ttl: u32) -> Found {
        Found::Data(Data::Addresses(vec![[192, 0, 2, 1].into()]), ttl)
    }

    fn settings() -> Settings {
        Settings {
            ttl_min: 5 * SECOND,
            ttl_max: 100 * SECOND,
            negative_ttl_max: 30 * SECOND,
            stale_max: 1000 * SECOND,
            cache_entries_max: 3,
            ..Settings::default()
        }
    }

    #[test]
    fn lifetimes_are_clamped() {
        let (settings, q) = (settings(), question("a.example"));
        for (found, good) in [
            (data(0), 5),
            (data(50), 50),
            (data(u32::MAX), 100),
            (Found::Nothing(None), 5),
            (Found::Nothing(Some(20)), 20),
            (Found::Nothing(Some(7000)), 30),
        ] {
            let mut cache = Cache::default();
            let known = cache.put(at(0), &settings, &q, found);
            assert_eq!(cache.get(at(good - 1), &q), Cached::Fresh(known.clone()));
            let after = match known {
                Known::Data(_) => Cached::Stale(known),
                _ => Cached::Miss,
            };
            assert_eq!(cache.get(at(good), &q), after);
            assert_eq!(cache.get(at(good + 1000), &q), Cached::Miss);
        }
    }

    #[test]
    fn failure_keeps_what_is_stale() {
        let (settings, q) = (settings(), question("a.example"));
        let mut cache = Cache::default();
        let known = cache.put(at(0), &settings, &q, data(10));
        assert_eq!(cache.fail(at(20), &settings, &q), known);
        assert_eq!(cache.get(at(49), &q), Cached::Rechecked(known.clone()));
        assert_eq!(cache.get(at(50), &q), Cached::Stale(known));
        // Beyond its use, and for a name never known, a failure is a failure, and soon forgotten.
        for (time, q) in [(2000, q), (2000, question("b.example"))] {
            assert_eq!(cache.fail(at(time), &settings, &q), Known::Failed);
            assert_eq!(cache.get(at(time + 1), &q), Cached::Fresh(Known::Failed));
            assert_eq!(cache.get(at(time + 2), &q), Cached::Miss);
        }
    }

    #[test]
    fn the_first_to_end_goes_first() {
        let settings = settings();
        let mut cache = Cache::default();
        for (name, ttl) in [("a.example", 90), ("b.example", 10), ("c.example", 50)] {
            cache.put(at(0), &settings, &question(name), data(ttl));
        }
        cache.put(at(1), &settings, &question("d.example"), data(60));
        assert_eq!(cache.len(), 3);
        assert_eq!(cache.get(at(2), &question("b.example")), Cached::Miss);
        for name in ["a.example", "c.example", "d.example"] {
            assert_ne!(cache.get(at(2), &question(name)), Cached::Miss);
        }
    }
}
