use super::*;

const MS: Duration = Duration::from_millis(1);

/// A client, its clock and its three engines.
struct World {
    client: Client<u32>,
    now: Instant,
    out: Outputs<u32>,
    members: Arc<[Member]>,
}

fn engine(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 2223))
}

impl World {
    fn new(engines: u8) -> Self {
        let members: Vec<Member> = (1..=engines)
            .map(|n| Member {
                address: engine(n),
                weight: 1,
            })
            .collect();
        let now = Instant::from_nanos(1_000_000_000);
        let mut client = Client::new(Key([1; 16]));
        let engines = members
            .iter()
            .map(|member| (member.address, Probe::default()))
            .collect();
        client.configure(now, Settings { engines });
        let mut world = Self {
            client,
            now,
            out: Outputs::default(),
            members: members.into(),
        };
        // The first pings, answered.
        world.advance(Duration::ZERO);
        for (engine, bytes) in std::mem::take(&mut world.out.sends) {
            world.reply(engine, &bytes, "d6:result4:ponge");
        }
        world
    }

    fn question(&self, seed: u64) -> Question {
        Question {
            members: Arc::clone(&self.members),
            engine: None,
            may_move: true,
            seed,
            command: b"d7:command5:offere".to_vec(),
            timeout: 1000 * MS,
        }
    }

    fn ask(&mut self, token: u32, question: Question) {
        let input = Input::Ask { token, question };
        self.client.step(self.now, input, &mut self.out);
    }

    /// Time goes on, tick by tick.
    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.client.deadline().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.client.step(self.now, Input::Tick, &mut self.out);
        }
        self.now = end;
    }

    fn reply(&mut self, engine: SocketAddr, question: &[u8], text: &str) {
        let (cookie, _) = reply::cookie(question).unwrap();
        let bytes = [cookie, b" ", text.as_bytes()].concat();
        let input = Input::Datagram {
            engine,
            bytes: &bytes,
        };
        self.client.step(self.now, input, &mut self.out);
    }

    /// Where the last datagram went, and what it was.
    fn last(&self) -> (SocketAddr, Vec<u8>) {
        self.out.sends.last().unwrap().clone()
    }

    fn outcomes(&mut self) -> Vec<(u32, Outcome)> {
        let answers = std::mem::take(&mut self.out.answers);
        answers.into_iter().map(|a| (a.token, a.outcome)).collect()
    }

    fn questions_sent(&mut self) -> Vec<SocketAddr> {
        let sends = std::mem::take(&mut self.out.sends);
        sends
            .into_iter()
            .filter(|(_, bytes)| !bytes.ends_with(b"7:command4:pinge"))
            .map(|(engine, _)| engine)
            .collect()
    }
}

const OK: &str = "d3:sdp3:v=06:result2:oke";

fn done(engine: SocketAddr) -> Outcome {
    let sdp = Some(b"v=0".to_vec());
    Outcome::Done { engine, sdp }
}

#[test]
fn an_answer_ends_a_question_once() {
    let mut world = World::new(1);
    world.ask(7, world.question(1));
    let (to, bytes) = world.last();
    assert_eq!(to, engine(1));
    world.reply(engine(1), &bytes, OK);
    assert_eq!(world.outcomes(), [(7, done(engine(1)))]);
    world.reply(engine(1), &bytes, OK);
    assert_eq!(world.outcomes(), []);
    assert_eq!(world.client.tally.mismatched, 1);
    assert!(world.client.is_empty());
}

#[test]
fn an_answer_of_another_engine_is_none() {
    let mut world = World::new(2);
    let question = Question {
        engine: Some(engine(1)),
        ..world.question(1)
    };
    world.ask(7, question);
    let (to, bytes) = world.last();
    assert_eq!(to, engine(1));
    world.reply(engine(2), &bytes, OK);
    world.reply(engine(1), b"aaaaaaaaaaaaa x", OK);
    world.reply(engine(1), &bytes, "d6:result");
    assert_eq!(world.outcomes(), []);
    assert_eq!(world.client.tally.mismatched, 3);
}

#[test]
fn a_question_is_repeated_with_its_cookie_until_its_deadline() {
    let mut world = World::new(1);
    let question = Question {
        engine: Some(engine(1)),
        may_move: false,
        ..world.question(1)
    };
    world.ask(7, question);
    let first = world.last();
    let start = world.now;
    world.advance(999 * MS);
    // After 100, 300 and 700 ms.
    let copies = world.out.sends.iter().filter(|&sent| *sent == first);
    assert_eq!(copies.count(), 4);
    assert_eq!(world.outcomes(), []);
    world.advance(MS);
    assert_eq!(world.outcomes(), [(7, Outcome::Silent)]);
    assert_eq!(world.now, start + 1000 * MS);
}

#[test]
fn a_call_stays_with_its_engine_and_only_calls_of_a_lost_one_move() {
    let mut world = World::new(3);
    let place = |world: &World| -> Vec<SocketAddr> {
        (0..300)
            .map(|seed| world.client.choose(&world.question(seed), &[]).unwrap())
            .collect()
    };
    let before = place(&world);
    assert_eq!(place(&world), before);
    for n in 1..=3 {
        let calls = before.iter().filter(|&&at| at == engine(n)).count();
        assert!((70..=130).contains(&calls), "engine {n} has {calls} of 300");
    }
    let gone = Input::Unreachable { engine: engine(2) };
    world.client.step(world.now, gone, &mut world.out);
    assert_eq!(world.out.states, [(engine(2), false)]);
    for (old, new) in before.into_iter().zip(place(&world)) {
        assert!(new != engine(2));
        assert!(old == engine(2) || old == new);
    }
}

#[test]
fn weights_share_out_and_zero_takes_nothing_new() {
    let mut world = World::new(3);
    let weights = [3, 1, 0];
    world.members = (1..=3)
        .zip(weights)
        .map(|(n, weight)| Member {
            address: engine(n),
            weight,
        })
        .collect();
    let calls = |n| {
        (0..4000)
            .filter(|&seed| world.client.choose(&world.question(seed), &[]) == Some(engine(n)))
            .count()
    };
    assert!((2850..=3150).contains(&calls(1)), "{}", calls(1));
    assert_eq!(calls(3), 0);
    let has_it = Question {
        engine: Some(engine(3)),
        ..world.question(1)
    };
    assert_eq!(world.client.choose(&has_it, &[]), Some(engine(3)));
}

#[test]
fn an_offer_moves_to_another_engine_and_an_answer_does_not() {
    let mut world = World::new(2);
    world.ask(1, world.question(5));
    let (first, _) = world.last();
    world.out.sends.clear();
    world.advance(500 * MS);
    let (second, bytes) = world.last();
    assert_ne!(first, second);
    world.reply(second, &bytes, OK);
    assert_eq!(world.outcomes(), [(1, done(second))]);
    let answer = Question {
        engine: Some(first),
        may_move: false,
        ..world.question(5)
    };
    world.questions_sent();
    world.ask(2, answer);
    world.advance(1000 * MS);
    let asked = world.questions_sent();
    assert!(asked.iter().all(|&to| to == first), "{asked:?}");
    assert_eq!(world.outcomes(), [(2, Outcome::Silent)]);
}

#[test]
fn a_full_engine_leaves_the_call_to_another() {
    let mut world = World::new(2);
    world.ask(1, world.question(5));
    let (first, bytes) = world.last();
    world.reply(first, &bytes, "d6:result10:load limite");
    let (second, bytes) = world.last();
    assert_ne!(first, second);
    world.reply(second, &bytes, "d6:result10:load limite");
    assert!(matches!(
        world.outcomes()[..],
        [(1, Outcome::Refused { engine, .. })] if engine == second
    ));
}

#[test]
fn the_breaker_opens_after_three_failures_and_closes_by_a_ping() {
    let mut world = World::new(1);
    for token in 0..3 {
        world.ask(token, world.question(1));
    }
    world.advance(1000 * MS);
    assert_eq!(world.outcomes().len(), 3);
    assert_eq!(world.out.states, [(engine(1), false)]);
    world.questions_sent();
    // While it is open nobody waits.
    world.ask(4, world.question(1));
    assert_eq!(world.outcomes(), [(4, Outcome::NoEngine)]);
    assert_eq!(world.questions_sent(), []);
    world.out.states.clear();
    world.advance(1500 * MS);
    let (to, ping) = world.last();
    assert!(ping.ends_with(b"7:command4:pinge"));
    world.reply(to, &ping, "d6:result4:ponge");
    assert_eq!(world.out.states, [(engine(1), true)]);
    world.ask(5, world.question(1));
    assert_eq!(world.questions_sent(), [engine(1)]);
}

#[test]
fn an_idle_engine_that_goes_silent_is_found_by_pings() {
    let mut world = World::new(1);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.out.states, [(engine(1), false)]);
}

#[test]
fn where_nobody_is_nothing_waits() {
    let mut world = World::new(1);
    world.ask(1, world.question(1));
    let gone = Input::Unreachable { engine: engine(1) };
    world.client.step(world.now, gone, &mut world.out);
    assert_eq!(world.outcomes(), [(1, Outcome::Silent)]);
    world.ask(2, world.question(1));
    assert_eq!(world.outcomes(), [(2, Outcome::NoEngine)]);
}

#[test]
fn questions_are_bounded() {
    let mut world = World::new(1);
    for token in 0..=QUESTIONS_MAX as u32 {
        world.ask(token, world.question(u64::from(token)));
    }
    assert_eq!(world.outcomes(), [(QUESTIONS_MAX as u32, Outcome::Busy)]);
    world.advance(1000 * MS);
    assert_eq!(world.outcomes().len(), QUESTIONS_MAX);
    assert!(world.client.due.len() <= 1);
}

#[test]
fn a_new_configuration_keeps_health_and_questions() {
    let mut world = World::new(2);
    let gone = Input::Unreachable { engine: engine(2) };
    world.client.step(world.now, gone, &mut world.out);
    let question = Question {
        engine: Some(engine(1)),
        may_move: false,
        ..world.question(1)
    };
    world.ask(1, question);
    let (_, bytes) = world.last();
    let settings = Settings {
        engines: vec![(engine(2), Probe::default()), (engine(3), Probe::default())],
    };
    world.client.configure(world.now, settings);
    assert!(!world.client.engines[&engine(2)].is_up());
    // It has gone from the configuration and still answers for its calls.
    world.reply(engine(1), &bytes, OK);
    assert_eq!(world.outcomes(), [(1, done(engine(1)))]);
}
