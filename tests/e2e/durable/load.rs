//! Clients that ask on and on, and note what they were answered: the oracle of what must be there.

use crate::collector::{Collected, Collector};
use crate::harness::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;

/// Clients with kept connections, each of which asks for one text after the other, every one once.
pub(crate) struct Load<'a> {
    clients: Vec<Mutex<Asked>>,
    /// How much a text is prolonged at most.
    padding_max: u64,
    place: Mutex<Place>,
    moved: Condvar,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    /// Who must not be left behind by more than so many records.
    follower: Option<(&'a Collector, u64)>,
}

/// What one client has done.
#[derive(Default)]
struct Asked {
    /// How many texts it has asked for.
    asked: u64,
    /// The numbers of those that were answered 200.
    acknowledged: Vec<u64>,
}

/// Where the publisher of the moment is.
#[derive(Default, Clone)]
struct Place {
    http: String,
    generation: u64,
    is_done: bool,
}

impl<'a> Load<'a> {
    pub(crate) fn new(clients: usize, padding_max: u64) -> Self {
        Self {
            clients: (0..clients).map(|_| Mutex::default()).collect(),
            padding_max,
            place: Mutex::default(),
            moved: Condvar::new(),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            follower: None,
        }
    }

    /// Has the clients wait for a collector, so that what it needs is not removed however slow it is.
    pub(crate) fn held_back_by(mut self, collector: &'a Collector, records_max: u64) -> Self {
        self.follower = Some((collector, records_max));
        self
    }

    /// Runs something while the clients ask.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.place.lock().unwrap().is_done = false;
        thread::scope(|scope| {
            for client in 0..self.clients.len() {
                scope.spawn(move || self.run(client));
            }
            let _end = EndOnDrop(self);
            work()
        })
    }

    /// Tells the clients where the publisher is now.
    pub(crate) fn goes_to(&self, publisher: &Daemon) {
        self.goes_to_address(publisher.told("publisher", "http"));
    }

    /// Tells the clients where HTTP is served now.
    pub(crate) fn goes_to_address(&self, http: &str) {
        let mut place = self.place.lock().unwrap();
        place.http = http.to_owned();
        place.generation += 1;
        self.moved.notify_all();
    }

    /// Records that were answered 200 so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Requests that were answered 503 so far.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until so many more were answered 200.
    #[track_caller]
    pub(crate) fn until_acknowledged(&self, more: u64) {
        let enough = self.acknowledged() + more;
        // However many that are: what must not take long is the next one.
        while self.acknowledged() < enough {
            let before = self.acknowledged();
            eventually("a record is acknowledged", || (self.acknowledged() > before).then_some(()));
        }
    }

    /// Waits until so many more were answered 503.
    #[track_caller]
    pub(crate) fn until_refused(&self, more: u64) {
        let enough = self.refused() + more;
        eventually("requests are refused", || (self.refused() >= enough).then_some(()));
    }

    fn run(&self, client: usize) {
        let mut place = self.place_after(0);
        while !place.is_done {
            match Client::connect(&place.http) {
                Ok(connection) => self.ask_on(client, connection),
                // Nobody is there until the next publisher is.
                Err(_) => place = self.place_after(place.generation),
            }
            let now = self.place.lock().unwrap();
            if now.is_done {
                return;
            }
        }
    }

    /// The place once there is one later than `generation`, or all is done.
    fn place_after(&self, generation: u64) -> Place {
        let place = self.place.lock().unwrap();
        let wait = |place: &mut Place| place.generation <= generation && !place.is_done;
        self.moved.wait_while(place, wait).unwrap().clone()
    }

    fn is_done(&self) -> bool {
        self.place.lock().unwrap().is_done
    }

    /// Asks until the connection ends. What was asked for last may have been published: it is not asked
    /// for again.
    fn ask_on(&self, client: usize, mut connection: Client) {
        while self.may_ask() {
            let number = {
                let mut asked = self.clients[client].lock().unwrap();
                asked.asked += 1;
                asked.asked - 1
            };
            let text = self.text(client, number);
            let Ok(answer) = connection.get(&format!("/downcase?param={text}")) else { return };
            match answer.status {
                200 => {
                    assert_eq!(answer.body, body_of(&text));
                    self.clients[client].lock().unwrap().acknowledged.push(number);
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                503 => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
                _ => panic!("{answer:?}"),
            }
        }
    }

    /// Whether another request is wanted, once it may be made.
    fn may_ask(&self) -> bool {
        if let Some((collector, records_max)) = self.follower {
            eventually("the collector comes along", || {
                let collected = collector.look(|collected| collected.position.next);
                (self.is_done() || self.acknowledged() <= collected + records_max).then_some(())
            });
        }
        !self.is_done()
    }

    /// What a client asks for.
    fn text(&self, client: usize, number: u64) -> String {
        let scattered = (number ^ (client as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        format!("C{client}N{number}P{}", "X".repeat((scattered % (self.padding_max + 1)) as usize))
    }

    /// That what was collected, from the first record on, is what was acknowledged: see [`Self::assert_logged`].
    #[track_caller]
    pub(crate) fn assert_kept(&self, collected: &Collected) {
        assert_eq!((collected.base.next, &collected.statements[..]), (0, &[][..]));
        self.assert_logged(collected.records().zip(0..).map(|(record, sequence)| {
            assert_eq!((record.sequence, record.topic), (sequence, "downcase"));
            str::from_utf8(record.body).unwrap()
        }));
    }

    /// That these bodies are what was acknowledged, each once and in the order of its client, and beside it
    /// nothing but what was asked for, at most once.
    #[track_caller]
    pub(crate) fn assert_logged<'b>(&self, bodies: impl Iterator<Item = &'b str>) {
        let mut clients: Vec<_> = self.clients.iter().map(|asked| Kept::new(asked.lock().unwrap())).collect();
        for body in bodies {
            let (client, number) = parse(body).unwrap_or_else(|| panic!("nobody asked for {body:?}"));
            assert_eq!(body, body_of(&self.text(client, number)));
            clients[client].pass(number).unwrap_or_else(|error| panic!("client {client}: {error}"));
        }
        for (number, client) in clients.into_iter().enumerate() {
            client.end().unwrap_or_else(|error| panic!("client {number}: {error}"));
        }
    }
}

/// Whatever happens to the test, the clients end.
struct EndOnDrop<'a, 'b>(&'a Load<'b>);

impl Drop for EndOnDrop<'_, '_> {
    fn drop(&mut self) {
        self.0.place.lock().unwrap().is_done = true;
        self.0.moved.notify_all();
    }
}

/// What was acknowledged to a client, against what is there.
struct Kept<G> {
    asked: G,
    /// How many of the acknowledged were met.
    met: usize,
    /// Behind the last number that was met.
    next: u64,
}

impl<G: std::ops::Deref<Target = Asked>> Kept<G> {
    fn new(asked: G) -> Self {
        Self { asked, met: 0, next: 0 }
    }

    /// Meets a number. A client asks for one thing at a time, so also what was not acknowledged is in order.
    fn pass(&mut self, number: u64) -> Result<(), String> {
        if number < self.next {
            return Err(format!("{number} comes again, or too late: behind {}", self.next - 1));
        }
        if number >= self.asked.asked {
            return Err(format!("{number} is there, and only {} were asked for", self.asked.asked));
        }
        self.next = number + 1;
        match self.asked.acknowledged.get(self.met) {
            Some(&expected) if expected < number => Err(format!("{expected} was acknowledged, and is not there")),
            Some(&expected) if expected == number => {
                self.met += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn end(self) -> Result<(), String> {
        match self.asked.acknowledged.get(self.met) {
            Some(expected) => Err(format!("{expected} was acknowledged, and is not there")),
            None => Ok(()),
        }
    }
}

fn body_of(text: &str) -> String {
    format!("lower case of {text} is {}", text.to_lowercase())
}

/// The client and the number of what a body answers.
fn parse(body: &str) -> Option<(usize, u64)> {
    let text = body.strip_prefix("lower case of C")?;
    let (client, rest) = text.split_once('N')?;
    let (number, _) = rest.split_once('P')?;
    Some((client.parse().ok()?, number.parse().ok()?))
}

#[test]
fn the_oracle_notices_what_is_missing_doubled_exchanged_or_made_up() {
    let meets = |numbers: &[u64]| {
        let asked = Asked { asked: 10, acknowledged: vec![1, 2, 5] };
        let mut kept = Kept::new(&asked);
        numbers.iter().try_for_each(|number| kept.pass(*number)).and_then(|()| kept.end())
    };
    assert_eq!(meets(&[1, 2, 5]), Ok(()));
    assert_eq!(meets(&[0, 1, 2, 4, 5, 9]), Ok(()));
    for wrong in [&[][..], &[1, 2], &[1, 5], &[2, 5], &[1, 1, 2, 5], &[2, 1, 5], &[1, 2, 5, 5], &[1, 2, 5, 10]] {
        assert!(meets(wrong).is_err(), "{wrong:?}");
    }
}
