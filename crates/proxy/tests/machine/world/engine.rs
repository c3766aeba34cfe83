//! A media engine that everybody can see through: SDP that says X comes back as "relayed X".

use ng::Outcome;
use proxy::{Answer, Input, MediaAsk, MediaSet, OnFailure};
use shm::{Cursor, Participant};
use std::{sync::Arc, time::Duration};
use tables::{
    Dialogs, MediaCalls,
    dialog::{DialogId, DialogState, flag},
};

use super::World;

/// What begins what it has put its own addresses into.
const RELAYED: &str = "relayed ";

/// Calls of the world go through it from now on; without it, requests get 488.
pub fn relay(world: &mut World) {
    relay_or(world, OnFailure::Reject(488));
}

pub fn relay_or(world: &mut World, on_failure: OnFailure) {
    let set = Arc::new(MediaSet {
        name: "relay".into(),
        profile: ng::Profile::default(),
        members: [ng::Member {
            address: address(),
            weight: 1,
        }]
        .into(),
        timeout: Duration::from_secs(1),
        on_failure,
    });
    world.configure(|settings| settings.media = vec![Arc::clone(&set)]);
    world.policy.media = Some(set);
}

fn address() -> std::net::SocketAddr {
    ([10, 7, 7, 7], 2223).into()
}

/// What an engine had for a call is free again.
pub fn free(participant: &mut Participant, id: DialogId) {
    if let Some((row, _)) = MediaCalls(participant).find(id) {
        MediaCalls(participant).end(row);
    }
}

impl World {
    /// It answers what it was asked, unless that is held back.
    pub fn run_engine(&mut self) {
        while !self.policy.held.iter().any(|held| held == "Media")
            && let Some((slot, ask)) = self.media.pop_front()
        {
            let outcome = answer(&ask);
            self.media_answered(slot, &ask, outcome);
        }
    }

    /// `engine`, `engine silent`: its answer to the oldest question that is held back.
    pub fn obey_engine(&mut self, how: &str) {
        let Some((slot, ask)) = self.media.pop_front() else {
            self.note("nothing is asked");
            return;
        };
        let outcome = match how {
            "silent" => Outcome::Silent,
            _ => answer(&ask),
        };
        self.media_answered(slot, &ask, outcome);
    }

    fn media_answered(&mut self, slot: usize, ask: &MediaAsk, outcome: Outcome) {
        let id = ask.id;
        self.turn(slot, |world| {
            world.point()?;
            let answer = Answer::Media(outcome);
            world.step(
                slot,
                Input::Answer {
                    id,
                    answer,
                    at_hand: None,
                },
            );
            world.point()?;
            world.answer_asks(slot, None)?;
            world.settle(slot, None);
            world.point()?;
            world.dispatch(slot);
            Ok(())
        });
    }

    /// What is left in `media` belongs to calls that go on, or to those whose end nobody lived to tell: those are found by looking.
    pub fn check_media(&mut self) {
        let mut found = Vec::new();
        let participant = &mut self.slots[0].participant;
        let slots = 1;
        MediaCalls(participant).walk(slots, Cursor::default(), usize::MAX, |row, id, call| {
            found.push((row, id, call));
        });
        for (row, id, call) in found {
            let lives = |state| matches!(state, DialogState::Early | DialogState::Confirmed);
            let dialogs = Dialogs(participant);
            let flagged =
                dialogs.find_id(id, |view| lives(view.state).then(|| view.has(flag::MEDIA)));
            match flagged.flatten() {
                Some(flagged) => assert!(flagged, "{call:?}"),
                None => assert!(MediaCalls(participant).end(row)),
            }
        }
    }
}

/// What it says.
fn answer(ask: &MediaAsk) -> Outcome {
    let command = ng::bencode::Value::parse(&ask.question.command).expect("bencode");
    let command = command.dictionary().expect("a dictionary");
    let text = |key: &str| {
        let text = command
            .get(key.as_bytes())
            .and_then(ng::bencode::Value::text);
        text.map(|text| String::from_utf8_lossy(text).into_owned())
    };
    let sdp = text("sdp").expect("SDP");
    assert!(!sdp.starts_with(RELAYED), "twice: {sdp}");
    let caller = text("call-id").expect("a Call-ID");
    let offerer = text("from-tag").expect("a tag");
    match text("command").as_deref() {
        Some("answer") => assert!(text("to-tag").is_some(), "{caller}"),
        Some("offer") => {}
        other => panic!("{other:?}"),
    }
    assert!(!offerer.is_empty());
    Outcome::Done {
        engine: address(),
        sdp: Some(format!("{RELAYED}{sdp}").into_bytes()),
    }
}
