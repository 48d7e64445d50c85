//! A proxy before a registry: it remembers what was asked for, and can hold requests or answers up.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// What is held up.
#[derive(Debug, Clone, Copy)]
pub enum Hold {
    /// Nothing.
    Nothing,
    /// Requests for blobs, until this page was asked for so often.
    Blobs { until: &'static str, times: usize },
    /// The rest of each answer, after so many bytes on a connection.
    After(usize),
}

/// A listening proxy.
pub struct Proxy {
    /// `127.0.0.1:PORT`.
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    hold: Hold,
    /// What was sent to the registry, by connection.
    requests: Vec<Vec<u8>>,
    /// Connections that the client has ended.
    ended: usize,
    /// Connections whose answer is held up.
    stuck: usize,
}

impl State {
    fn gets(&self, page: &str) -> usize {
        let line = format!("GET {page} HTTP/1.1\r\n");
        let count = |sent: &Vec<u8>| String::from_utf8_lossy(sent).matches(&line).count();
        self.requests.iter().map(count).sum()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes the state and wakes those that wait for it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait(&self, what: &str, done: impl Fn(&State) -> bool) {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), Duration::from_secs(60), |state| !done(state));
        let timeout = waited.unwrap().1.timed_out();
        assert!(!timeout, "{what}: not within a minute");
    }
}

impl Proxy {
    /// Starts one before the registry at `registry`.
    pub fn start(registry: &str, hold: Hold) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = State {
            hold,
            requests: Vec::new(),
            ended: 0,
            stuck: 0,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let (registry, to) = (registry.to_owned(), Arc::clone(&shared));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&registry).unwrap());
                connect(client, server, &to);
            }
        });
        Proxy { address, shared }
    }

    /// What is held up from now on.
    pub fn hold(&self, hold: Hold) {
        self.shared.change(|state| state.hold = hold);
    }

    /// How often a page was asked for.
    pub fn gets(&self, page: &str) -> usize {
        self.shared.lock().gets(page)
    }

    /// Waits until an answer is held up in the middle.
    pub fn wait_until_stuck(&self) {
        self.shared.wait("an answer is held up", |state| state.stuck > 0);
    }

    /// Waits until no client has a connection.
    pub fn wait_until_left(&self) {
        self.shared
            .wait("all clients are gone", |state| state.ended == state.requests.len());
    }
}

/// Moves bytes in both directions until both sides have ended.
fn connect(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    let mut number = 0;
    shared.change(|state| {
        number = state.requests.len();
        state.requests.push(Vec::new());
    });
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let asking = Arc::clone(shared);
    thread::spawn(move || {
        ask(from, &to, number, &asking);
        let _ = to.shutdown(Shutdown::Both);
        asking.change(|state| state.ended += 1);
    });
    let answering = Arc::clone(shared);
    thread::spawn(move || answer(server, &client, &answering));
}

fn ask(mut client: TcpStream, mut server: &TcpStream, number: usize, shared: &Shared) {
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        let sent = &buffer[..length];
        shared.change(|state| state.requests[number].extend_from_slice(sent));
        let hold = shared.lock().hold;
        if let Hold::Blobs { until, times } = hold
            && String::from_utf8_lossy(sent).contains("/blobs/")
        {
            shared.wait(until, |state| state.gets(until) >= times);
        }
        if server.write_all(sent).is_err() {
            return;
        }
    }
}

fn answer(mut server: TcpStream, mut client: &TcpStream, shared: &Shared) {
    let (mut buffer, mut sum) = ([0; 8192], 0);
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        sum += length;
        let hold = shared.lock().hold;
        if matches!(hold, Hold::After(most) if sum > most) {
            // The client's connection stays open until the client goes.
            return shared.change(|state| state.stuck += 1);
        }
        if client.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
    let _ = client.shutdown(Shutdown::Write);
}
