//! HTTP/1.1 over many sockets by one thread: a loop over epoll.
//!
//! Promises: one `write` and one `read` a request, no allocation, no lock, no task: by measurement, an executor
//! costs more than the server under test. Timers are exact (timerfd), so that the tool itself is not late in
//! the open model. A connection that ends is opened again; its requests in flight fail. Never blocks on
//! anything but epoll.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    os::fd::OwnedFd,
};

use rustix::{
    event::{Timespec, epoll},
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags},
};

use super::{RECONNECT_PAUSE, Settings};
use crate::{
    answer::{Parsed, parse},
    clock::{MILLI, Nanos, SECOND, nanos},
    record::ErrorKind,
    scenario::InFlight,
    worker::{NextRequest, Worker},
};

/// How often time-outs are checked and ended seconds reported.
const TICK_INTERVAL: Nanos = 50 * MILLI;
/// The initial size of a buffer, bytes.
const BUFFER_BYTES: usize = 16 << 10;
/// The largest answer, bytes.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// The timer's key in epoll; those of connections are their indexes.
const TIMER_KEY: u64 = u64::MAX;

enum State {
    Down { retry: Nanos },
    Connecting { since: Nanos },
    Up,
}

struct Connection {
    stream: Option<TcpStream>,
    state: State,
    /// The index of its route: lane and target.
    group: usize,
    /// Requests to write, of which `written` bytes are sent.
    out: Vec<u8>,
    written: usize,
    waits_to_write: bool,
    /// A buffer for answers: the bytes from `from` to `to` are not parsed yet.
    input: Vec<u8>,
    from: usize,
    to: usize,
    /// Requests in flight, the oldest first.
    sent: VecDeque<InFlight>,
    idle_since: Nanos,
    is_idle: bool,
    /// Whether it has given an answer.
    has_served: bool,
}

/// The connections of a thread.
pub struct Wire {
    settings: Settings,
    epoll: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    /// By route: the connections that wait for a request.
    idle: Vec<VecDeque<usize>>,
    /// By route: the number of connections that are not down.
    alive: Vec<usize>,
    scratch: Vec<u8>,
}

impl Wire {
    /// Connections that are not open yet.
    pub fn new(settings: Settings) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER_KEY), epoll::EventFlags::IN)?;
        let targets = settings.targets.len();
        let lanes = settings.connections.iter().map(|route| route.lane + 1).max().unwrap_or(1);
        let connection = |route: &crate::scenario::Route| Connection {
            stream: None,
            state: State::Down { retry: 0 },
            group: route.lane * targets + route.target,
            out: Vec::with_capacity(BUFFER_BYTES),
            written: 0,
            waits_to_write: false,
            input: vec![0; BUFFER_BYTES],
            from: 0,
            to: 0,
            sent: VecDeque::with_capacity(settings.depth),
            idle_since: 0,
            is_idle: false,
            has_served: false,
        };
        let connections = settings.connections.iter().map(connection).collect();
        Ok(Self {
            epoll,
            timer,
            connections,
            idle: vec![VecDeque::new(); lanes * targets],
            alive: vec![0; lanes * targets],
            scratch: Vec::new(),
            settings,
        })
    }

    /// Carries the requests of a phase that has begun, until it has ended and all requests are answered or
    /// failed.
    pub fn drive(&mut self, worker: &mut Worker) -> io::Result<()> {
        let clock = worker.clock;
        let timeout = nanos(self.settings.timeout);
        let mut events = Vec::with_capacity(1024);
        let mut next_tick = 0;
        loop {
            let now = clock.now();
            let through = worker.is_done_sending(now);
            if through && self.connections.iter().all(|connection| connection.sent.is_empty()) {
                worker.finish(clock.now());
                return Ok(());
            }
            if now >= next_tick {
                worker.tick(now);
                self.check_timeouts(worker, now, timeout);
                next_tick = now + TICK_INTERVAL;
            }
            let next_due = if through { Nanos::MAX } else { self.dispatch(worker, now) };
            let wake = next_due.min(next_tick);
            self.wait(&mut events, wake.saturating_sub(clock.now()))?;
            for event in &events {
                let event: &epoll::Event = event;
                let data = event.data.u64();
                let flags = event.flags;
                if data == TIMER_KEY {
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                } else if let Ok(place) = usize::try_from(data) {
                    self.ready(worker, place, flags);
                }
            }
        }
    }

    /// Waits for events, at most `most` nanoseconds.
    fn wait(&self, events: &mut Vec<epoll::Event>, most: Nanos) -> io::Result<()> {
        events.clear();
        let millis = |n: Nanos| Timespec { tv_sec: 0, tv_nsec: i64::try_from(n * MILLI).unwrap_or(0) };
        // epoll counts milliseconds, which is too coarse for due times.
        let timeout = if most == 0 {
            millis(0)
        } else {
            let exact = Timespec {
                tv_sec: i64::try_from(most / SECOND).unwrap_or(1),
                tv_nsec: i64::try_from(most % SECOND).unwrap_or(0),
            };
            let none = Timespec { tv_sec: 0, tv_nsec: 0 };
            let timer = Itimerspec { it_interval: none, it_value: exact };
            rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
            millis(TICK_INTERVAL / MILLI + 10)
        };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends the requests that are due on routes with a free connection. Returns when the next one is due.
    fn dispatch(&mut self, worker: &mut Worker, now: Nanos) -> Nanos {
        let mut next = Nanos::MAX;
        let over = worker.is_over(now);
        for group in 0..self.idle.len() {
            if self.alive[group] == 0 {
                let mut scratch = std::mem::take(&mut self.scratch);
                let route = self.route(group);
                if worker.is_open(route.lane) {
                    worker.refuse(route, now, &mut scratch);
                }
                self.scratch = scratch;
                continue;
            }
            while let Some(&place) = self.idle[group].front() {
                let route = self.route(group);
                let connection = &mut self.connections[place];
                match worker.next_request(route, connection.idle_since, now, &mut connection.out) {
                    NextRequest::Send(request) => {
                        self.idle[group].pop_front();
                        connection.is_idle = false;
                        connection.sent.push_back(request);
                        if !worker.is_open(route.lane) {
                            self.fill(worker, place, now);
                        }
                        self.flush(worker, place, now);
                    }
                    NextRequest::DueAt(due) => {
                        next = next.min(due);
                        break;
                    }
                    NextRequest::None => {
                        // The scenario may have a request soon.
                        if !over || worker.is_open(route.lane) {
                            next = next.min(now + MILLI);
                        }
                        break;
                    }
                }
            }
        }
        next
    }

    fn route(&self, group: usize) -> crate::scenario::Route {
        let targets = self.settings.targets.len();
        crate::scenario::Route { lane: group / targets, target: group % targets }
    }

    /// In the closed model, sends up to `depth` requests at a time.
    fn fill(&mut self, worker: &mut Worker, place: usize, now: Nanos) {
        let route = self.route(self.connections[place].group);
        let connection = &mut self.connections[place];
        while connection.sent.len() < self.settings.depth {
            match worker.next_request(route, now, now, &mut connection.out) {
                NextRequest::Send(request) => connection.sent.push_back(request),
                NextRequest::DueAt(_) | NextRequest::None => break,
            }
        }
    }

    /// Handles an event of a connection: readable, writable, or closed.
    fn ready(&mut self, worker: &mut Worker, place: usize, flags: epoll::EventFlags) {
        let connection = &mut self.connections[place];
        let now = worker.clock.now();
        if let State::Connecting { .. } = connection.state {
            let Some(stream) = &connection.stream else { return };
            if !matches!(sockopt::socket_error(stream), Ok(Ok(()))) {
                return self.down(worker, place, ErrorKind::Connect, now);
            }
            if !flags.contains(epoll::EventFlags::OUT) {
                return;
            }
            connection.state = State::Up;
            self.set_interest(place, false);
            return self.set_idle(place, now);
        }
        if flags.contains(epoll::EventFlags::OUT) && connection.waits_to_write {
            self.flush(worker, place, now);
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            self.read(worker, place, now);
        }
    }

    fn read(&mut self, worker: &mut Worker, place: usize, mut now: Nanos) {
        let connection = &mut self.connections[place];
        let Some(stream) = &mut connection.stream else { return };
        if connection.to == connection.input.len() {
            if connection.from > 0 {
                connection.input.copy_within(connection.from..connection.to, 0);
                connection.to -= connection.from;
                connection.from = 0;
            } else if connection.input.len() < ANSWER_BYTES_MAX {
                connection.input.resize(connection.input.len() * 2, 0);
            } else {
                return self.down(worker, place, ErrorKind::Malformed, now);
            }
        }
        match stream.read(&mut connection.input[connection.to..]) {
            Ok(0) => return self.down(worker, place, ErrorKind::Closed, now),
            Ok(more) => connection.to += more,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            Err(_) => return self.down(worker, place, ErrorKind::Closed, now),
        }
        now = worker.clock.now().max(now);
        let mut scratch = std::mem::take(&mut self.scratch);
        let after = self.answers(worker, place, now, &mut scratch);
        self.scratch = scratch;
        match after {
            After::Open => {
                let lane = self.route(self.connections[place].group).lane;
                if !worker.is_open(lane) {
                    self.fill(worker, place, now);
                }
                self.flush(worker, place, now);
                if self.connections[place].sent.is_empty() {
                    self.set_idle(place, now);
                }
            }
            After::Close => self.down(worker, place, ErrorKind::Closed, now),
            After::Malformed => self.down(worker, place, ErrorKind::Malformed, now),
        }
    }

    /// Parses and judges all answers that have arrived.
    fn answers(&mut self, worker: &mut Worker, place: usize, now: Nanos, scratch: &mut Vec<u8>) -> After {
        let connection = &mut self.connections[place];
        while connection.from < connection.to {
            match parse(&connection.input[connection.from..connection.to], scratch) {
                Parsed::Partial => return After::Open,
                Parsed::Malformed => return After::Malformed,
                Parsed::Whole { answer, length, close } => {
                    // An answer without a request: this is not an HTTP server.
                    let Some(request) = connection.sent.pop_front() else { return After::Malformed };
                    worker.on_answer(&request, &answer, now);
                    connection.from += length;
                    connection.has_served = true;
                    if close {
                        return After::Close;
                    }
                }
            }
        }
        connection.from = 0;
        connection.to = 0;
        After::Open
    }

    fn flush(&mut self, worker: &mut Worker, place: usize, now: Nanos) {
        let connection = &mut self.connections[place];
        let Some(stream) = &mut connection.stream else { return };
        while connection.written < connection.out.len() {
            match stream.write(&connection.out[connection.written..]) {
                Ok(more) => connection.written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !connection.waits_to_write {
                        self.set_interest(place, true);
                    }
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.down(worker, place, ErrorKind::Closed, now),
            }
        }
        connection.out.clear();
        connection.written = 0;
        if connection.waits_to_write {
            self.set_interest(place, false);
        }
    }

    /// The connection waits for a request.
    fn set_idle(&mut self, place: usize, now: Nanos) {
        let connection = &mut self.connections[place];
        if !connection.is_idle {
            connection.is_idle = true;
            connection.idle_since = now;
            self.idle[connection.group].push_back(place);
        }
    }

    /// Selects the events of a connection.
    fn set_interest(&mut self, place: usize, write: bool) {
        let connection = &mut self.connections[place];
        connection.waits_to_write = write;
        let Some(stream) = &connection.stream else { return };
        let flags =
            if write { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        let _ = epoll::modify(&self.epoll, stream, epoll::EventData::new_u64(place as u64), flags);
    }

    /// Closes a connection: its requests in flight fail.
    fn down(&mut self, worker: &mut Worker, place: usize, error: ErrorKind, now: Nanos) {
        let connection = &mut self.connections[place];
        // Closing removes it from epoll.
        connection.stream = None;
        let had = std::mem::take(&mut connection.sent);
        let refused = matches!(connection.state, State::Connecting { .. });
        if !matches!(connection.state, State::Down { .. }) {
            self.alive[connection.group] -= 1;
        }
        // A connection that has served is opened again at once, another one after a pause.
        let at_once = !refused && (connection.has_served || had.is_empty());
        connection.has_served = false;
        connection.state = State::Down { retry: now + nanos(RECONNECT_PAUSE) };
        connection.out.clear();
        connection.input.truncate(BUFFER_BYTES);
        (connection.written, connection.from, connection.to, connection.waits_to_write) = (0, 0, 0, false);
        let group = connection.group;
        if connection.is_idle {
            connection.is_idle = false;
            self.idle[group].retain(|&other| other != place);
        }
        let timeout = nanos(self.settings.timeout);
        for request in &had {
            // Requests behind the one that timed out have not waited that long.
            let is_ended = error == ErrorKind::Timeout && request.sent + timeout >= now;
            worker.on_failure(request, if is_ended { ErrorKind::Closed } else { error }, now);
        }
        if at_once {
            return self.connect(worker, place, now);
        }
        let route = self.route(group);
        if refused && !worker.is_open(route.lane) {
            let mut scratch = std::mem::take(&mut self.scratch);
            worker.refuse(route, now, &mut scratch);
            self.scratch = scratch;
        }
    }

    /// Closes connections whose requests timed out, and opens those that are down.
    fn check_timeouts(&mut self, worker: &mut Worker, now: Nanos, timeout: Nanos) {
        for place in 0..self.connections.len() {
            let connection = &self.connections[place];
            match connection.state {
                State::Down { retry } if retry <= now => self.connect(worker, place, now),
                State::Connecting { since } if since + timeout < now => {
                    self.down(worker, place, ErrorKind::Connect, now);
                }
                State::Up if connection.sent.front().is_some_and(|request| request.sent + timeout < now) => {
                    self.down(worker, place, ErrorKind::Timeout, now);
                }
                _ => {}
            }
        }
    }

    fn connect(&mut self, worker: &mut Worker, place: usize, now: Nanos) {
        let group = self.connections[place].group;
        let address = self.settings.targets[self.route(group).target].address;
        self.alive[group] += 1;
        self.connections[place].state = State::Connecting { since: now };
        match start_connect(address) {
            Ok(stream) => {
                let data = epoll::EventData::new_u64(place as u64);
                let flags = epoll::EventFlags::OUT;
                let added = epoll::add(&self.epoll, &stream, data, flags);
                self.connections[place].stream = Some(stream);
                if added.is_err() {
                    self.down(worker, place, ErrorKind::Connect, now);
                }
            }
            Err(_) => self.down(worker, place, ErrorKind::Connect, now),
        }
    }
}

enum After {
    Open,
    Close,
    Malformed,
}

/// Begins to open a connection.
fn start_connect(address: std::net::SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
