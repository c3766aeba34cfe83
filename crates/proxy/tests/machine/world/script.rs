//! Scripts: what agents say and how time passes, and the text of what came of it.
//!
//! ```text
//! alice: INVITE sip:bob@example.org / Max-Forwards: 3     a request, with changed header lines
//! alice: BYE .                                            one within the dialog of the last INVITE
//! bob: 180 & bob2: 486                                    responses, both in one turn
//! bob: 200 CANCEL                                         a response to the last request of this method
//! alice: ACK        alice: CANCEL                         as its INVITE and the answer say
//! trunk: relay sip:carol@example.org                      the last request, sent on with another Request-URI
//! trunk: relay sip:carol@example.org / staying            with a Record-Route of its own
//! alice: BYE . / forgetful                                without the parameter of our own URIs that says which dialog it is of
//! trunk: pass 200                                         the last response that begins like this, sent on by who relayed its request
//! alice: again INVITE                                     the same datagram once more
//! @1 alice: ...                                           to slot 1
//! +500ms            show Via, Route        count          time; headers to show; counters since the last count
//! hold Route, Resolve        answer 2                     questions held back, and their answers
//! release        release backwards                        all of them
//! hold Media        engine        engine silent           questions to the media engine held back, and its answer to the oldest
//! hops                                                    what is found out about hops is shown from here on
//! calls        end                                        the dialogs on record; the operator ends them all
//! records                                                 the records of calls that are over, if calls are recorded
//! die                                                     the worker of slot 0 dies, an heir takes over
//! ```

use std::{fmt::Write as _, rc::Rc, time::Duration};

use tables::Counter;

use super::{Packet, World};

impl World {
    /// Runs a script; returns it with what we sent after each line.
    pub fn play(&mut self, script: &str) -> String {
        self.log.clear();
        for line in script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            let _ = writeln!(self.log, "{line}");
            self.obey(line);
        }
        std::mem::take(&mut self.log)
    }

    fn obey(&mut self, line: &str) {
        if let Some(time) = line.strip_prefix('+') {
            self.pass_showing(duration(time));
        } else if let Some(names) = line.strip_prefix("show") {
            self.shown = list(names);
        } else if let Some(kinds) = line.strip_prefix("hold") {
            self.policy.held = list(kinds);
        } else if let Some(number) = line.strip_prefix("answer ") {
            let number: usize = number.trim().parse().expect("a number");
            let Some(&ask) = self.slots[0].held.get(number - 1) else {
                panic!("no question {number}");
            };
            self.answer_late(0, ask);
        } else if let Some(order) = line.strip_prefix("release") {
            self.release(0, order == " backwards");
        } else if line == "die" {
            self.die(0);
        } else if let Some(how) = line.strip_prefix("engine") {
            self.obey_engine(how.trim());
        } else if line == "calls" {
            self.show_calls();
        } else if line == "records" {
            self.show_records();
        } else if line == "end" {
            self.end_calls();
        } else if line == "adopt" {
            self.adopt_all(0);
        } else if line == "hops" {
            self.hops = true;
        } else if line == "open" {
            self.policy.open = true;
        } else if line == "digest" {
            self.policy.digest = true;
        } else if line == "count" {
            for (cell, counter) in Counter::ALL.iter().enumerate() {
                let total = self.counter(*counter);
                let before = std::mem::replace(&mut self.counted[cell], total);
                if total != before {
                    self.note(&format!("{} {}", counter.name(), total - before));
                }
            }
        } else {
            let (slot, line) = match line.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
                Some((slot, rest)) => (slot.parse().expect("a slot"), rest),
                None => (0, line),
            };
            let packets = line
                .split(" & ")
                .filter_map(|part| self.say(part))
                .collect();
            self.deliver(slot, packets);
        }
    }

    /// What an agent says, as a datagram.
    pub fn say(&mut self, line: &str) -> Option<Packet> {
        let (name, rest) = line.split_once(": ").expect("agent: what it says");
        let mut parts = rest.split(" / ");
        let mut words = parts.next()?.split(' ');
        let (verb, word) = (words.next()?, words.next().unwrap_or_default());
        let changes: Vec<&str> = parts.collect();
        let run = self.run;
        let agent = self.agent(name);
        let text = match (verb, word) {
            ("again", begins) => agent.again(begins),
            ("relay", uri) => agent.relay(run, uri, &changes),
            ("pass", begins) => agent.pass(begins),
            ("ACK", "") => agent.ack(run, &changes),
            ("CANCEL", "") => agent.cancel(&changes),
            (method, ".") => agent.in_dialog(run, method, &changes),
            (status, method) if status.parse::<u16>().is_ok() => {
                agent.respond(status.parse().ok()?, method, &changes)
            }
            (method, uri) => Some(agent.request(run, method, uri, &changes)),
        };
        let (source, listener) = (agent.source, agent.listener);
        match text {
            Some(text) => Some(Packet {
                bytes: Rc::from(text.as_bytes()),
                source,
                listener,
            }),
            None => {
                self.note(&format!("{name} can't"));
                None
            }
        }
    }

    /// Time passes; what happens meanwhile is shown with its moment.
    fn pass_showing(&mut self, time: Duration) {
        let (start, end) = (self.now, self.now + time);
        let log = std::mem::take(&mut self.log);
        let mut shown = log;
        loop {
            let next = self
                .slots
                .iter()
                .filter_map(|slot| Some(slot.wheel.first()?.0))
                .chain(self.next_dialog())
                .min();
            let Some(at) = next.filter(|&at| at <= end) else {
                break;
            };
            let step = at.saturating_duration_since(self.now);
            self.pass(step);
            let happened = std::mem::take(&mut self.log);
            let since = self.now.saturating_duration_since(start);
            for line in happened.lines() {
                match line.strip_prefix("    ") {
                    Some(rest) if !rest.starts_with(' ') => {
                        let _ = writeln!(shown, "    {}: {rest}", moment(since));
                    }
                    _ => {
                        let _ = writeln!(shown, "{line}");
                    }
                }
            }
        }
        self.now = end;
        self.log = shown;
    }
}

fn list(names: &str) -> Vec<String> {
    names
        .split(',')
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

fn duration(text: &str) -> Duration {
    if let Some(millis) = text.strip_suffix("ms") {
        Duration::from_millis(millis.parse().expect("milliseconds"))
    } else {
        Duration::from_secs(text.trim_end_matches('s').parse().expect("seconds"))
    }
}

fn moment(time: Duration) -> String {
    if time.subsec_millis() == 0 {
        format!("{}s", time.as_secs())
    } else {
        format!(
            "{}.{}s",
            time.as_secs(),
            format!("{:03}", time.subsec_millis()).trim_end_matches('0')
        )
    }
}
