//! Both halves on an arena of the heap, with a file in a folder: whoever goes away between any two words of theirs, each call has one line.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use shm::{Arena, Layout, ParticipantId};
use tables::calls::{self, End};
use tables::dialog::{Dialog, DialogId, EndCause, flag};
use tables::{Dialogs, TABLES};

use super::*;

struct World {
    arena: Arena,
    dir: tempfile::TempDir,
    records: Records,
    next: u32,
}

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

impl World {
    fn new() -> Self {
        let layout = Layout {
            rx_buffers: 4,
            rx_buffer_bytes: 512,
            ..Layout::new(32 << 20, 2, 2, TABLES)
        };
        let dir = tempfile::tempdir().unwrap();
        Self {
            arena: Arena::heap(&layout, [7; 16]).unwrap(),
            records: Records {
                path: Some(dir.path().join("calls.csv").to_str().unwrap().to_owned()),
                ..Records::default()
            },
            dir,
            next: 0,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("calls.csv")
    }

    fn begin(&mut self, count: u32) -> Vec<(DialogId, RowRef)> {
        let mut p = self.arena.participant(ParticipantId(0));
        p.online();
        let begun = (0..count).map(|_| {
            self.next += 1;
            let id = DialogId(u128::from(self.next).to_be_bytes());
            let call_id = format!("call {}", self.next);
            let mut dialog = Dialog::new(id, call_id.as_bytes(), b"tag", os::now());
            dialog.flags = flag::RECORDED | flag::RECORDED_UNANSWERED;
            (id, Dialogs(&mut p).create(dialog, &[]).unwrap())
        });
        let begun = begun.collect();
        p.offline();
        begun
    }

    fn end(&self, calls: &[(DialogId, RowRef)]) {
        let mut p = self.arena.participant(ParticipantId(1));
        p.online();
        let end = End {
            cause: EndCause::Caller,
            code: 0,
            at: os::now().into(),
            keep_until: None,
            tried: None,
        };
        for (_, row) in calls {
            assert!(calls::close(&mut p, *row, &end).is_some());
        }
        p.offline();
    }

    fn recorder(&self) -> (Recorder, Participant) {
        let mut recorder = Recorder::new(&self.arena).unwrap();
        recorder.configure(&self.records);
        (recorder, self.arena.participant(ParticipantId(2)))
    }

    fn waiting(&self) -> u64 {
        self.arena.live_rows(CDR)
    }

    /// Ids of all lines of all files, with how often each is there.
    fn lines(&self) -> HashMap<String, u32> {
        let mut lines = HashMap::new();
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "lock") {
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'), "half a line");
            for line in text.lines().filter(|line| !line.starts_with("id,")) {
                let id = line.split(',').next().unwrap().to_owned();
                *lines.entry(id).or_insert(0) += 1;
            }
        }
        lines
    }

    fn assert_each_once(&self, count: usize) {
        let lines = self.lines();
        assert!(lines.values().all(|times| *times == 1), "twice: {lines:?}");
        assert_eq!(lines.len(), count);
    }
}

/// Turns until that is so.
fn until(recorder: &mut Recorder, p: &mut Participant, mut done: impl FnMut(&Recorder) -> bool) {
    let deadline = std::time::Instant::now() + DEADLINE;
    while !done(recorder) {
        assert!(std::time::Instant::now() < deadline, "it takes too long");
        recorder.turn(p, os::now());
        std::thread::yield_now();
    }
}

#[test]
fn calls_that_are_over_come_into_the_file() {
    let mut world = World::new();
    let calls = world.begin(100);
    world.end(&calls[..60]);
    let (mut recorder, mut p) = world.recorder();
    until(&mut recorder, &mut p, |_| world.waiting() == 0);
    world.assert_each_once(60);
    world.end(&calls[60..]);
    until(&mut recorder, &mut p, |_| world.waiting() == 0);
    world.assert_each_once(100);
    assert_eq!(
        world.arena.counters().total(Counter::CdrsWritten.cell()),
        100
    );
    assert_eq!(world.arena.counters().total(Counter::CdrsMade.cell()), 100);
}

#[test]
fn whoever_goes_away_at_any_moment_leaves_each_call_one_line() {
    let mut world = World::new();
    let (mut written, mut cut) = (0, 0);
    for turns in 0..60 {
        let calls = world.begin(20);
        world.end(&calls);
        written += 20;
        let (mut recorder, mut p) = world.recorder();
        // What its thread does meanwhile is up to the machine: it goes away in the middle of anything.
        for _ in 0..turns {
            recorder.turn(&mut p, os::now());
            std::thread::yield_now();
        }
        cut += u32::from(world.waiting() > 0);
        drop(recorder);
        let (mut recorder, mut p) = world.recorder();
        until(&mut recorder, &mut p, |_| world.waiting() == 0);
        world.assert_each_once(written);
    }
    assert!(cut > 0, "none was in the middle of anything");
}

#[test]
fn a_record_whose_dialog_is_there_waits() {
    let mut world = World::new();
    let calls = world.begin(2);
    let mut p = world.arena.participant(ParticipantId(1));
    p.online();
    let dialog = Dialogs(&mut p)
        .with(calls[0].1, |view| view.take())
        .unwrap();
    let end = End {
        cause: EndCause::Caller,
        code: 0,
        at: os::now().into(),
        keep_until: None,
        tried: None,
    };
    // As if its slot had died.
    Cdrs(&mut p)
        .insert(&tables::cdr::Cdr::of(&dialog, &end))
        .unwrap();
    p.offline();
    world.end(&calls[1..]);
    let (mut recorder, mut writer) = world.recorder();
    until(&mut recorder, &mut writer, |_| world.waiting() == 1);
    world.assert_each_once(1);
    world.end(&calls[..1]);
    until(&mut recorder, &mut writer, |_| world.waiting() == 0);
    world.assert_each_once(2);
}

#[test]
fn there_is_one_writer_and_another_when_it_goes() {
    let mut world = World::new();
    let (mut first, mut p) = world.recorder();
    let is_ready = |r: &Recorder| {
        let state = &r.asked.as_ref().unwrap().state;
        !matches!(state, State::Waiting | State::Closed | State::Opening)
    };
    until(&mut first, &mut p, is_ready);
    let mut second = Recorder::new(&world.arena).unwrap();
    second.configure(&world.records);
    let mut other = world.arena.participant(ParticipantId(3));
    let calls = world.begin(50);
    world.end(&calls);
    until(&mut first, &mut p, |_| {
        second.turn(&mut other, os::now());
        world.waiting() == 0
    });
    assert!(!is_ready(&second));
    drop(first);
    until(&mut second, &mut other, is_ready);
    let calls = world.begin(50);
    world.end(&calls);
    until(&mut second, &mut other, |_| world.waiting() == 0);
    world.assert_each_once(100);
}

#[test]
fn what_can_not_be_written_waits_and_too_many_go_unrecorded() {
    let mut world = World::new();
    // A folder is no file.
    fs::create_dir(world.path()).unwrap();
    world.records.waiting_max = 30;
    let calls = world.begin(100);
    world.end(&calls[..50]);
    let (mut recorder, mut p) = world.recorder();
    let failed = || world.arena.counters().total(Counter::CdrsFailed.cell());
    let is_closed = || tables::cdr::closed(&world.arena).load(Ordering::Relaxed) != 0;
    until(&mut recorder, &mut p, |_| failed() > 0 && is_closed());
    world.end(&calls[50..60]);
    assert_eq!(world.waiting(), 50);
    assert_eq!(world.arena.counters().total(Counter::CdrsLost.cell()), 10);
    fs::remove_dir(world.path()).unwrap();
    until(&mut recorder, &mut p, |_| {
        world.waiting() == 0 && !is_closed()
    });
    world.end(&calls[60..]);
    until(&mut recorder, &mut p, |_| world.waiting() == 0);
    world.assert_each_once(90);
}

#[test]
fn a_file_that_is_moved_away_is_followed() {
    let mut world = World::new();
    let (mut recorder, mut p) = world.recorder();
    for round in 0..3 {
        let calls = world.begin(10);
        world.end(&calls);
        until(&mut recorder, &mut p, |_| world.waiting() == 0);
        fs::rename(
            world.path(),
            world.dir.path().join(format!("calls.{round}")),
        )
        .unwrap();
        until(&mut recorder, &mut p, |_| world.path().exists());
    }
    world.assert_each_once(30);
}

#[test]
fn another_setup_closes_the_file_and_none_ends_it() {
    let mut world = World::new();
    let (mut recorder, mut p) = world.recorder();
    let calls = world.begin(30);
    world.end(&calls[..10]);
    until(&mut recorder, &mut p, |_| world.waiting() == 0);
    world.records.format = RecordFormat::Json;
    recorder.configure(&world.records);
    world.end(&calls[10..20]);
    until(&mut recorder, &mut p, |_| world.waiting() == 0);
    let text = fs::read_to_string(world.path()).unwrap();
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("{\"id\":"))
            .count(),
        10
    );
    recorder.configure(&Records::default());
    world.end(&calls[20..]);
    recorder.turn(&mut p, os::now());
    assert_eq!((world.waiting(), recorder.wait()), (10, Duration::MAX));
    recorder.configure(&world.records);
    until(&mut recorder, &mut p, |_| world.waiting() == 0);
}

#[test]
fn dialogs_that_came_back_after_their_records_are_forgotten() {
    let mut world = World::new();
    let (mut recorder, mut p) = world.recorder();
    let calls = world.begin(2);
    world.end(&calls[..1]);
    until(&mut recorder, &mut p, |_| world.waiting() == 0);
    drop(recorder);
    // An older snapshot: the call goes on, and its record is not in the arena; nor is the position.
    let mut old = World::new();
    old.dir = world.dir;
    old.records = world.records;
    old.begin(2);
    let (mut recorder, mut p) = old.recorder();
    let dialogs = || old.arena.live_rows(tables::DIALOG);
    until(&mut recorder, &mut p, |_| dialogs() == 1);
}

#[test]
fn every_field_of_the_configuration_is_one_of_a_record() {
    let names: Vec<&str> = Field::ALL.iter().map(|field| field.name()).collect();
    assert_eq!(names, config::CDR_FIELDS);
}

#[test]
fn a_file_that_was_moved_away_stays_as_it_was() {
    let mut world = World::new();
    let (mut recorder, mut p) = world.recorder();
    for round in 1..=3 {
        let calls = world.begin(10);
        world.end(&calls);
        until(&mut recorder, &mut p, |_| world.waiting() == 0);
        let aside = world.dir.path().join(format!("calls.{round}"));
        fs::rename(world.path(), &aside).unwrap();
        let text = fs::read_to_string(&aside).unwrap();
        // As compressing it does: the next records must not be in what is gone.
        let calls = world.begin(10);
        world.end(&calls);
        until(&mut recorder, &mut p, |_| world.waiting() == 0);
        assert_eq!(fs::read_to_string(&aside).unwrap(), text);
        world.assert_each_once(round * 20);
    }
}
