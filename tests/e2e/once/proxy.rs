//! A network that fails when it is told to: a TCP proxy that cuts what goes through it, stalls it without a
//! word, delays it, takes connections and leads them nowhere, or takes none.
//!
//! What it does is done when the call returns: links that were cut are gone, a port that refuses is closed.
//! It reads a link only as fast as the other end takes it, so that what holds up is held up, as TCP does.

use crate::harness::*;
use socket2::SockRef;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a link holds in each direction, beside what the kernel does.
const CHUNK_BYTES: usize = 64 * 1024;
/// How long a link waits for bytes, or for room, before it looks what it is told.
const LOOK: Duration = Duration::from_millis(10);

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// As that of a process that ended: FIN.
    Closed,
    /// As that of a host that was restarted: RST.
    Reset,
}

/// Listens until it is dropped.
pub(super) struct Proxy {
    /// `HOST:PORT`.
    pub(super) address: String,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// The two ways to a publisher, whose replay has to be advertised before it is there.
pub(super) struct Ways {
    pub(super) feed: Proxy,
    pub(super) replay: Proxy,
}

impl Ways {
    pub(super) fn new(host: &str) -> Self {
        Self { feed: Proxy::new(host), replay: Proxy::new(host) }
    }

    /// The option that the publisher behind them is to have.
    pub(super) fn advertised(&self) -> String {
        format!("--advertise-replay={}", self.replay.address)
    }

    pub(super) fn lead_to(&self, publisher: &Daemon) {
        self.feed.leads_to(publisher.told("publisher", "feed"));
        self.replay.leads_to(publisher.told("publisher", "replay"));
    }

    pub(super) fn cut(&self, how: Cut) {
        self.feed.cut(how);
        self.replay.cut(how);
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Where new links lead; as long as it leads nowhere, they are taken and held.
    target: Option<String>,
    delay: Duration,
    refuses: bool,
    is_listening: bool,
    is_over: bool,
    accepted: u64,
    links: HashMap<u64, Orders>,
}

/// What a link is told.
#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    is_stalled: bool,
    cut: Option<Cut>,
}

impl Proxy {
    /// On a free port of a loopback address that no other test uses. It leads nowhere yet.
    pub(super) fn new(host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        shared.state().is_listening = true;
        let acceptor = thread::spawn({
            let (shared, address) = (shared.clone(), address.clone());
            move || shared.accept(listener, &address)
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// As options have it.
    pub(super) fn endpoint(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// New links lead there: an endpoint.
    pub(super) fn leads_to(&self, endpoint: &str) {
        self.shared.state().target = Some(endpoint.trim_start_matches("tcp://").to_owned());
    }

    /// New links lead nowhere: nothing is ever said on them.
    pub(super) fn leads_nowhere(&self) {
        self.shared.state().target = None;
    }

    /// Ends all links that there are. Returns how many.
    pub(super) fn cut(&self, how: Cut) -> usize {
        let mut state = self.shared.state();
        state.links.values_mut().for_each(|orders| orders.cut = Some(how));
        let ended: Vec<u64> = state.links.keys().copied().collect();
        self.shared.changed.notify_all();
        self.shared.wait_while(state, |state| ended.iter().any(|link| state.links.contains_key(link)));
        ended.len()
    }

    /// Stalls all links that there are, in both directions; new ones are not. Returns how many went on until now.
    pub(super) fn stall(&self) -> usize {
        let mut state = self.shared.state();
        let going_on = state.links.values_mut().filter(|orders| !orders.is_stalled);
        going_on.map(|orders| orders.is_stalled = true).count()
    }

    /// What was stalled goes on.
    pub(super) fn resume(&self) {
        self.shared.state().links.values_mut().for_each(|orders| orders.is_stalled = false);
        self.shared.changed.notify_all();
    }

    /// Whatever comes is held for so long.
    pub(super) fn delay(&self, delay: Duration) {
        self.shared.state().delay = delay;
    }

    /// Closes its port; the links that there are stay.
    pub(super) fn refuse(&self) {
        self.shared.state().refuses = true;
        self.wake();
        self.shared.wait_while(self.shared.state(), |state| state.is_listening);
        // A process that another test is just starting has a copy of it, for a moment.
        eventually("the port is closed", || TcpStream::connect(&self.address).is_err().then_some(()));
    }

    /// Opens its port again.
    pub(super) fn listen(&self) {
        let mut state = self.shared.state();
        state.refuses = false;
        self.shared.changed.notify_all();
        self.shared.wait_while(state, |state| !state.is_listening);
    }

    /// Connections that were taken so far.
    pub(super) fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }

    /// Links that there are and that are not stalled.
    pub(super) fn links(&self) -> usize {
        self.shared.state().links.values().filter(|orders| !orders.is_stalled).count()
    }

    /// Waits until `more` connections were taken after there had been `before`.
    #[track_caller]
    pub(super) fn until_accepted(&self, before: u64, more: u64) {
        eventually("new connections", || (self.accepted() >= before + more).then_some(()));
    }

    /// Has the acceptor look what it is told.
    fn wake(&self) {
        drop(TcpStream::connect(&self.address));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.is_over = true;
            state.links.values_mut().for_each(|orders| orders.cut = Some(Cut::Closed));
            self.shared.changed.notify_all();
        }
        self.wake();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    #[track_caller]
    fn wait_while(&self, state: MutexGuard<'_, State>, is_so: impl FnMut(&mut State) -> bool) {
        let (state, waited) = self.changed.wait_timeout_while(state, PATIENCE, is_so).unwrap();
        drop(state);
        assert!(!waited.timed_out(), "the proxy does not do what it is told");
    }

    /// Takes connections, each to a thread of its own, until all is over.
    fn accept(self: &Arc<Self>, mut listener: TcpListener, address: &str) {
        loop {
            let taken = listener.accept();
            let mut state = self.state();
            if state.is_over {
                return;
            }
            if state.refuses {
                drop((taken, listener));
                state.is_listening = false;
                self.changed.notify_all();
                state = self.changed.wait_while(state, |state| state.refuses && !state.is_over).unwrap();
                if state.is_over {
                    return;
                }
                listener = eventually("the port is open again", || TcpListener::bind(address).ok());
                state.is_listening = true;
                self.changed.notify_all();
                continue;
            }
            let Ok((client, _)) = taken else { continue };
            let link = state.accepted;
            state.accepted += 1;
            state.links.insert(link, Orders::default());
            let (shared, target) = (self.clone(), state.target.clone());
            thread::spawn(move || shared.serve(link, client, target));
        }
    }

    /// A link from its beginning to its end.
    fn serve(&self, link: u64, client: TcpStream, target: Option<String>) {
        let leads_nowhere = target.is_none();
        let server = target.and_then(|target| TcpStream::connect(target).ok());
        let ends: Vec<&TcpStream> = [Some(&client), server.as_ref()].into_iter().flatten().collect();
        for end in &ends {
            let _ = end.set_nodelay(true);
            let _ = end.set_read_timeout(Some(LOOK));
            let _ = end.set_write_timeout(Some(LOOK));
        }
        match &server {
            Some(server) => thread::scope(|scope| {
                scope.spawn(|| self.pump(link, &client, Some(server)));
                self.pump(link, server, Some(&client));
            }),
            None if leads_nowhere => self.pump(link, &client, None),
            None => {}
        }
        let cut = self.orders(link).cut;
        for end in ends {
            let _ = match cut {
                Some(Cut::Reset) => SockRef::from(end).set_linger(Some(Duration::ZERO)),
                _ => end.shutdown(Shutdown::Both),
            };
        }
        drop((client, server));
        self.state().links.remove(&link);
        self.changed.notify_all();
    }

    /// Carries what comes from one end to the other, or to nobody. When one direction ends, the other does.
    fn pump(&self, link: u64, from: &TcpStream, to: Option<&TcpStream>) {
        // What either end does is no failure of the proxy.
        let _ = self.carry(link, from, to);
        self.state().links.entry(link).and_modify(|orders| _ = orders.cut.get_or_insert(Cut::Closed));
        self.changed.notify_all();
    }

    fn carry(&self, link: u64, mut from: &TcpStream, to: Option<&TcpStream>) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        while self.goes_on(link) {
            let length = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if is_timeout(&error) => continue,
                Err(error) => return Err(error),
            };
            let delay = self.state().delay;
            if !delay.is_zero() {
                thread::sleep(delay);
            }
            let (Some(mut to), mut rest) = (to, &buffer[..length]) else { continue };
            while !rest.is_empty() && self.goes_on(link) {
                match to.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn orders(&self, link: u64) -> Orders {
        self.state().links[&link]
    }

    /// Waits while the link is stalled. False once it is cut.
    fn goes_on(&self, link: u64) -> bool {
        let is_held = |state: &mut State| state.links[&link].is_stalled && state.links[&link].cut.is_none();
        self.changed.wait_while(self.state(), is_held).unwrap().links[&link].cut.is_none()
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// A listener that sends back what it gets, on each connection, until it ends.
#[cfg(test)]
fn echo() -> String {
    let listener = TcpListener::bind("127.0.4.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                let _ = io::copy(&mut reader, &mut stream);
            });
        }
    });
    format!("tcp://{address}")
}

#[test]
fn the_proxy_does_what_it_is_told() {
    let proxy = Proxy::new("127.0.4.1");
    proxy.leads_to(&echo());
    let connect = || {
        let stream = TcpStream::connect(&proxy.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let say = |mut stream: &TcpStream| {
        stream.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).map(|()| assert_eq!(&heard, b"hello"))
    };
    let (one, two) = (connect(), connect());
    say(&one).unwrap();
    say(&two).unwrap();
    assert_eq!((proxy.accepted(), proxy.links(), proxy.cut(Cut::Reset), proxy.links()), (2, 2, 2, 0));
    assert_eq!((&one).read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let three = connect();
    say(&three).unwrap();
    assert_eq!(proxy.cut(Cut::Closed), 1);
    assert_eq!((&three).read(&mut [0; 1]).unwrap(), 0);

    // What is stalled says nothing until it is resumed; others go on.
    let stalled = connect();
    say(&stalled).unwrap();
    assert_eq!(proxy.stall(), 1);
    (&stalled).write_all(b"hello").unwrap();
    proxy.delay(Duration::from_millis(1));
    say(&connect()).unwrap();
    stalled.set_read_timeout(Some(LOOK)).unwrap();
    assert!(is_timeout(&(&stalled).read(&mut [0; 1]).unwrap_err()));
    stalled.set_read_timeout(Some(PATIENCE)).unwrap();
    proxy.resume();
    (&stalled).read_exact(&mut [0; 5]).unwrap();

    proxy.refuse();
    assert_eq!(TcpStream::connect(&proxy.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    say(&stalled).unwrap();
    proxy.listen();
    say(&connect()).unwrap();
    proxy.leads_nowhere();
    let nowhere = connect();
    (&nowhere).write_all(b"hello").unwrap();
    nowhere.set_read_timeout(Some(LOOK)).unwrap();
    assert!(is_timeout(&(&nowhere).read(&mut [0; 1]).unwrap_err()));
}
