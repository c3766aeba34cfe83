//! `cdr`: a call that ends leaves one record, whoever ends it and however often; it is handed out when it can't come again.

use proptest::prelude::*;
use shm::{Cursor, Followed, Follower, Participant, RowRef};
use stdx::Moment;
use tables::balancer::{Balancer, Resource, ResourceKey};
use tables::calls::{self, CallEvent, End, Tried, What};
use tables::cdr::{CDR_FIELD_MAX, Cdr, CdrId, Lying};
use tables::dialog::{Dialog, DialogId, EndCause, flag};
use tables::{CDR, Cdrs, Counter, Dialogs, KEPT, KV};

use crate::world::{arena, at, online, smallest};

fn early(n: u8) -> Dialog {
    let call_id = format!("call {n}");
    let mut dialog = Dialog::new(DialogId([n; 16]), call_id.as_bytes(), b"caller", at(0));
    dialog.flags = flag::RECORDED | flag::RECORDED_UNANSWERED;
    dialog.caller.uri = b"sip:alice@example.com".to_vec();
    dialog.caller.address = Some("192.0.2.1:5060".parse().unwrap());
    dialog.callee.uri = b"sip:bob@example.com".to_vec();
    dialog.request_uri = b"sip:bob@example.com;x=1".to_vec();
    dialog.domain = b"example.com".to_vec();
    dialog.destination = b"\x01trunks\0sip:192.0.2.7".to_vec();
    dialog
}

fn end(cause: EndCause, code: u16, seconds: u64) -> End {
    End {
        cause,
        code,
        at: at(seconds).into(),
        keep_until: None,
        tried: None,
    }
}

fn over(p: &mut Participant) -> Vec<Lying> {
    let mut over = Vec::new();
    let broken = |row: RowRef, _| panic!("{row:?} can't be read");
    let next = Cdrs(p).over(
        Cursor::default(),
        usize::MAX,
        |lying| over.push(lying),
        broken,
    );
    assert_eq!(next, None);
    over
}

#[test]
fn a_call_and_its_record() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let row = Dialogs(&mut p).create(early(1), &[]).unwrap();
    let answer = |d: &mut Dialog| d.callee.address = Some("192.0.2.7:5060".parse().unwrap());
    Dialogs(&mut p)
        .confirm(row, b"callee", at(3), answer)
        .unwrap();
    let closed = calls::close(&mut p, row, &end(EndCause::Callee, 0, 65)).unwrap();
    assert_eq!(closed.end_cause, Some(EndCause::Callee));
    assert!(calls::close(&mut p, row, &end(EndCause::Caller, 0, 66)).is_none());
    let lying = over(&mut p);
    let [one] = lying.as_slice() else {
        panic!("{lying:?}")
    };
    let wanted = Cdr {
        id: CdrId {
            dialog: [1; 16],
            fork: 0,
        },
        call_id: b"call 1".to_vec(),
        caller_tag: b"caller".to_vec(),
        callee_tag: b"callee".to_vec(),
        caller_uri: b"sip:alice@example.com".to_vec(),
        callee_uri: b"sip:bob@example.com".to_vec(),
        request_uri: b"sip:bob@example.com;x=1".to_vec(),
        domain: b"example.com".to_vec(),
        destination: b"trunks sip:192.0.2.7".to_vec(),
        source: Some("192.0.2.1:5060".parse().unwrap()),
        target: Some("192.0.2.7:5060".parse().unwrap()),
        start_at: at(0).into(),
        answer_at: Some(at(3).into()),
        end_at: at(65).into(),
        cause: EndCause::Callee,
        code: 0,
        flags: flag::RECORDED | flag::RECORDED_UNANSWERED,
    };
    assert_eq!(one.cdr.duration().as_secs(), 62);
    assert_eq!(one.cdr, wanted);
    assert_eq!(one.cdr.id.to_string().parse(), Ok(one.cdr.id));
    assert!(Cdrs(&mut p).remove(one.row, one.version));
    assert!(!Cdrs(&mut p).remove(one.row, one.version));
    assert_eq!((over(&mut p), Cdrs(&mut p).waiting()), (vec![], 0));
    assert_eq!(arena.counters().total(Counter::CdrsMade.cell()), 1);
}

/// A record that waits in a snapshot tells the same after a boot.
#[test]
fn a_record_outlives_the_clock() {
    let mut dialog = early(1);
    dialog.created_at = at(1).into();
    dialog.confirmed_at = Some(at(4).into());
    let cdr = Cdr::of(&dialog, &end(EndCause::Callee, 0, 66));
    let mut payload = Vec::new();
    cdr.encode(&mut payload);
    // Long before the new clock's zero, and a boot later.
    for (nth, nanos) in [-7_200_000_000_000, -60_000_000_000, 100]
        .iter()
        .enumerate()
    {
        payload = tables::shift(CDR, &payload, at(70), *nanos).unwrap();
        let carried = Cdr::read(&payload).unwrap();
        assert_eq!(carried.duration().as_secs(), 62, "boot {nth}");
        let answer_at = carried.answer_at.unwrap();
        assert_eq!(
            answer_at
                .saturating_duration_since(carried.start_at)
                .as_secs(),
            3
        );
    }
    let carried = Cdr::read(&payload).unwrap();
    assert_eq!(carried.end_at.as_nanos(), -6_193_999_999_900);
}

#[test]
fn a_call_that_nobody_answered_tells_where_it_was_tried_last() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let to = "192.0.2.9:5060".parse().unwrap();
    let key = ResourceKey::destination(b"trunks", b"sip:192.0.2.9");
    let destination = Balancer(&mut p).ensure(&key, &Resource::default()).ok();
    for (n, answered, destination, wanted) in [
        (1, false, destination, "192.0.2.9:5060 trunks sip:192.0.2.9"),
        (2, false, None, "192.0.2.9:5060 "),
        (3, true, destination, "192.0.2.7:5060 trunks sip:192.0.2.7"),
    ] {
        let row = Dialogs(&mut p).create(early(n), &[]).unwrap();
        if answered {
            let answer = |d: &mut Dialog| d.callee.address = "192.0.2.7:5060".parse().ok();
            Dialogs(&mut p)
                .confirm(row, b"callee", at(3), answer)
                .unwrap();
        }
        let end = End {
            tried: Some(Tried { to, destination }),
            ..end(EndCause::Failed, 486, 4)
        };
        assert!(calls::close(&mut p, row, &end).is_some());
        let [one] = over(&mut p).try_into().expect("one record");
        let target = one.cdr.target.map(|to| to.to_string()).unwrap_or_default();
        let destination = String::from_utf8_lossy(&one.cdr.destination).into_owned();
        assert_eq!(format!("{target} {destination}"), wanted);
        assert!(Cdrs(&mut p).remove(one.row, one.version));
    }
}

#[test]
fn the_stream_tells_of_it() {
    let arena = arena(16 << 20);
    let (mut p, mut other) = (online(&arena, 0), online(&arena, 1));
    let mut follower = Follower::new(&arena);
    let row = Dialogs(&mut p).create(early(1), &[]).unwrap();
    let event = |what, seconds| CallEvent {
        what,
        id: DialogId([1; 16]),
        row,
        at: at(seconds).into(),
    };
    event(What::Begun, 0).tell(&p);
    let failed = end(EndCause::Failed, 486, 4);
    assert!(calls::close(&mut other, row, &failed).is_some());
    assert!(calls::close(&mut p, row, &failed).is_none());
    let mut events = Vec::new();
    assert_eq!(follower.follow(9, &mut events), Followed::default());
    let events: Vec<_> = events.iter().filter_map(CallEvent::read).collect();
    let ended = What::Ended {
        cause: EndCause::Failed,
        code: 486,
    };
    assert_eq!(events, [event(What::Begun, 0), event(ended, 4)]);
}

/// Who dies between the record and the removal leaves both; whoever ends the call then adds nothing.
#[test]
fn an_end_that_is_begun_again_leaves_one_record() {
    let arena = arena(16 << 20);
    let (mut dead, mut p) = (online(&arena, 0), online(&arena, 1));
    let row = Dialogs(&mut dead).create(early(1), &[]).unwrap();
    let dialog = Dialogs(&mut dead).with(row, |view| view.take()).unwrap();
    let first = Cdr::of(&dialog, &end(EndCause::Cancelled, 487, 2));
    assert_eq!(Cdrs(&mut dead).insert(&first), Ok(true));
    // Not as long as its dialog is there.
    assert_eq!(over(&mut p), []);
    assert!(calls::close(&mut p, row, &end(EndCause::Failed, 486, 3)).is_some());
    let lying = over(&mut p);
    assert_eq!(lying.len(), 1);
    assert_eq!(lying[0].cdr, first);
    assert_eq!(arena.counters().total(Counter::CdrsMade.cell()), 1);
}

/// Who looked the dialog up before it was gone may be late with its record: until everybody has had a turn, the first one is there.
#[test]
fn who_comes_late_finds_the_record_within_the_grace_period() {
    let arena = arena(16 << 20);
    let (mut late, mut p, mut writer) = (online(&arena, 0), online(&arena, 1), online(&arena, 2));
    let row = Dialogs(&mut p).create(early(1), &[]).unwrap();
    late.quiescent();
    let seen = Dialogs(&mut late).with(row, |view| view.take()).unwrap();
    assert!(calls::close(&mut p, row, &end(EndCause::Caller, 0, 3)).is_some());
    let lying = over(&mut writer);
    let grace = writer.grace();
    let mut is_over = |p: &mut Participant| {
        (0..4).any(|_| {
            p.quiescent();
            writer.quiescent();
            writer.is_over_since(grace)
        })
    };
    assert!(!is_over(&mut p));
    let its = Cdr::of(&seen, &end(EndCause::Callee, 0, 3));
    assert_eq!(Cdrs(&mut late).insert(&its), Ok(false));
    late.offline();
    assert!(is_over(&mut p));
    assert!(Cdrs(&mut p).remove(lying[0].row, lying[0].version));
    assert!(calls::close(&mut late_online(late), row, &end(EndCause::Callee, 0, 3)).is_none());
    assert_eq!(Cdrs(&mut p).waiting(), 0);
}

fn late_online(mut p: Participant) -> Participant {
    p.online();
    p
}

#[test]
fn callees_of_one_invite_have_records_of_their_own() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let first = Dialogs(&mut p).create(early(1), &[]).unwrap();
    Dialogs(&mut p).confirm(first, b"a", at(1), |_| {}).unwrap();
    let second = Dialogs(&mut p).fork(first, b"b", |_| {}).unwrap();
    let bye = end(EndCause::Caller, 0, 9);
    assert!(calls::close(&mut p, first, &bye).is_some());
    assert_eq!(over(&mut p).len(), 1);
    let dialog = Dialogs(&mut p).with(second, |view| view.take()).unwrap();
    assert_eq!(Cdrs(&mut p).insert(&Cdr::of(&dialog, &bye)), Ok(true));
    assert_eq!(over(&mut p).len(), 1, "the other one's dialog is there");
    assert!(calls::close(&mut p, second, &bye).is_some());
    let lying = over(&mut p);
    assert_eq!(lying.len(), 2);
    assert_ne!(lying[0].cdr.id, lying[1].cdr.id);
    assert_eq!(lying[0].cdr.dialog(), lying[1].cdr.dialog());
}

#[test]
fn calls_are_recorded_as_their_dialogs_say() {
    let (answered, all) = (flag::RECORDED, flag::RECORDED | flag::RECORDED_UNANSWERED);
    for (flags, is_answered, records) in [
        (0, true, 0),
        (0, false, 0),
        (answered, true, 1),
        (answered, false, 0),
        (all, true, 1),
        (all, false, 1),
    ] {
        let arena = arena(16 << 20);
        let mut p = online(&arena, 0);
        let mut dialog = early(1);
        dialog.flags = flags;
        let row = Dialogs(&mut p).create(dialog, &[]).unwrap();
        if is_answered {
            Dialogs(&mut p).confirm(row, b"a", at(1), |_| {}).unwrap();
        }
        assert!(calls::close(&mut p, row, &end(EndCause::Caller, 0, 9)).is_some());
        assert_eq!(over(&mut p).len(), records, "{flags} {is_answered}");
    }
}

/// Messages that are under way find a copy; it is not the call.
#[test]
fn a_call_that_leaves_a_copy_is_over_all_the_same() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let row = Dialogs(&mut p).create(early(1), &[]).unwrap();
    let place = Dialogs(&mut p).with(row, |view| view.place()).unwrap();
    let end = End {
        keep_until: Some(at(90)),
        ..end(EndCause::Caller, 0, 9)
    };
    assert!(calls::close(&mut p, row, &end).is_some());
    let left = Dialogs(&mut p).at_place(place, b"call 1", b"caller", b"x", |_, _| ());
    assert_eq!((left, over(&mut p).len()), (Some(()), 1));
}

/// What the operator began is his, whoever finishes it.
#[test]
fn the_first_cause_counts() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let row = Dialogs(&mut p).create(early(1), &[]).unwrap();
    let ending = |dialog: &mut Dialog| {
        dialog.end_cause = Some(EndCause::Operator);
        (true, ())
    };
    Dialogs(&mut p).update(row, ending).unwrap();
    let dialog = calls::close(&mut p, row, &end(EndCause::Caller, 0, 9)).unwrap();
    assert_eq!(dialog.end_cause, Some(EndCause::Operator));
    assert_eq!(over(&mut p)[0].cdr.cause, EndCause::Operator);
}

/// Who answers chooses its tag, and is not to choose that its call has no record: what tells the callees of one call apart depends on the call.
#[test]
fn callees_can_not_share_a_record() {
    let of = |call: u8, tag: &[u8]| {
        let mut dialog = early(call);
        dialog.flags |= flag::FORK;
        dialog.callee.tag = tag.to_vec();
        CdrId::of(&dialog).fork
    };
    assert_eq!(of(1, b"a"), of(1, b"a"));
    assert_ne!(of(1, b"a"), of(1, b"b"));
    assert_ne!(of(1, b"a"), of(2, b"a"));
    assert_ne!(of(1, b"") & 1, 0);
}

#[test]
fn a_dialog_that_came_back_after_its_record_is_forgotten() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    Dialogs(&mut p).create(early(1), &[]).unwrap();
    let id = CdrId {
        dialog: [1; 16],
        fork: 0,
    };
    assert!(Cdrs(&mut p).forget_ghost(&id));
    assert!(!Cdrs(&mut p).forget_ghost(&id));
    assert_eq!(Dialogs(&mut p).find_id(DialogId([1; 16]), |_| ()), None);
}

#[test]
fn a_record_has_room_when_nothing_new_has() {
    let arena = smallest();
    let mut p = online(&arena, 0);
    let mut rows = Vec::new();
    for n in 0.. {
        let call_id = format!("{n}-{}", "x".repeat(200));
        let mut dialog = early(0);
        dialog.id = DialogId(u128::from(n as u32).to_le_bytes());
        dialog.call_id = call_id.into_bytes();
        match Dialogs(&mut p).create(dialog, &[]) {
            Ok(row) => rows.push(row),
            Err(_) => break,
        }
    }
    // What is kept back is not for ever: if nothing was ever written, there would be no rows left.
    let count = 1000;
    for row in rows.into_iter().take(count) {
        assert!(calls::close(&mut p, row, &end(EndCause::Caller, 0, 9)).is_some());
        p.quiescent();
    }
    assert_eq!(over(&mut p).len(), count);
    assert_eq!(arena.counters().total(Counter::CdrsLost.cell()), 0);
}

#[test]
fn the_position_is_kept_and_comes_first_in_a_snapshot() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    assert_eq!(Cdrs(&mut p).position(at(1)), None);
    for text in [b"here", b"then"] {
        Cdrs(&mut p).set_position(text, at(1)).unwrap();
        assert_eq!(Cdrs(&mut p).position(at(2)), Some(text.to_vec()));
    }
    assert_eq!((KEPT.first(), KEPT.last()), (Some(&KV), Some(&CDR)));
}

#[test]
fn what_can_not_be_read_is_named() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let meta = shm::RowMeta::default();
    p.insert(CDR, &[7; 16], &[b"no record"], &[], meta).unwrap();
    let mut broken = Vec::new();
    Cdrs(&mut p).over(
        Cursor::default(),
        usize::MAX,
        |lying| panic!("{lying:?}"),
        |row, version| broken.push((row, version)),
    );
    let [(row, version)] = broken[..] else {
        panic!("{broken:?}")
    };
    assert!(Cdrs(&mut p).remove(row, version));
}

proptest! {
    #[test]
    fn records_are_read_as_they_were_written(
        texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 8),
        numbers: [i64; 3], code: u16, cause in 0usize..9, flags: u32, id: [u8; 16], fork: u64,
        port: u16,
    ) {
        let cdr = Cdr {
            id: CdrId { dialog: id, fork },
            call_id: texts[0].clone(),
            caller_tag: texts[1].clone(),
            callee_tag: texts[2].clone(),
            caller_uri: texts[3].clone(),
            callee_uri: texts[4].clone(),
            request_uri: texts[5].clone(),
            domain: texts[6].clone(),
            destination: texts[7].clone(),
            source: Some(([192, 0, 2, 1], port).into()),
            target: None,
            start_at: Moment::from_nanos(numbers[0]),
            answer_at: Some(numbers[1]).filter(|at| *at != 0).map(Moment::from_nanos),
            end_at: Moment::from_nanos(numbers[2]),
            cause: EndCause::ALL[cause],
            code,
            flags,
        };
        let mut bytes = Vec::new();
        cdr.encode(&mut bytes);
        prop_assert_eq!(Cdr::read(&bytes), Some(cdr.clone()));
        prop_assert_eq!(cdr.id.to_string().parse::<CdrId>(), Ok(cdr.id));
        for cut in 0..bytes.len() {
            Cdr::read(&bytes[..cut]);
        }
    }
}

#[test]
fn a_field_that_is_too_long_is_cut() {
    let arena = arena(16 << 20);
    let mut p = online(&arena, 0);
    let mut dialog = early(1);
    dialog.request_uri = vec![b'x'; 60_000];
    let cdr = Cdr::of(&dialog, &end(EndCause::Caller, 0, 9));
    assert_eq!(Cdrs(&mut p).insert(&cdr), Ok(true));
    assert_eq!(over(&mut p)[0].cdr.request_uri.len(), CDR_FIELD_MAX);
}
