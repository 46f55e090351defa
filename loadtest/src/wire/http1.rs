//! HTTP/1.1 over many sockets by one thread: a plain loop over epoll.
//!
//! Promises: one `write` and one `read` a request, no allocation, no lock, no task: measured, an executor
//! in between costs more than the server that is driven. Timers are exact (timerfd), so that in the open
//! model the tool itself is not late. Connections that end are made anew; what was under way on them failed.
//! Never blocks on anything but epoll.

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

use super::{AGAIN, Settings};
use crate::{
    answer::{Parsed, parse},
    clock::{MILLI, Nanos, SECOND, nanos},
    record::Fault,
    scenario::Note,
    worker::{Take, Worker},
};

/// How often time-outs and the end are looked at.
const TICK: Nanos = 50 * MILLI;
/// Of a buffer, at first.
const BUFFER: usize = 16 << 10;
/// No answer is larger.
const LARGEST: usize = 8 << 20;
/// The timer's name in epoll.
const TIMER: u64 = u64::MAX;

enum State {
    Down { retry: Nanos },
    Connecting { since: Nanos },
    Up,
}

struct Connection {
    stream: Option<TcpStream>,
    state: State,
    group: usize,
    /// Bytes that are to be written; `written` of them are.
    out: Vec<u8>,
    written: usize,
    waits_to_write: bool,
    /// Bytes that were read: those from `from` to `to` are not parsed yet.
    input: Vec<u8>,
    from: usize,
    to: usize,
    sent: VecDeque<Note>,
    idle_since: Nanos,
    is_idle: bool,
    /// It gave an answer.
    has_served: bool,
}

/// The sockets of a thread.
pub struct Wire {
    settings: Settings,
    epoll: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    /// By lane and target: who waits for a request.
    idle: Vec<VecDeque<usize>>,
    /// By lane and target: how many are not down.
    alive: Vec<usize>,
    scratch: Vec<u8>,
}

impl Wire {
    /// Sockets that are not connected yet.
    pub fn new(settings: Settings) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        let targets = settings.targets.len();
        let lanes = settings.connections.iter().map(|spot| spot.lane + 1).max().unwrap_or(1);
        let connection = |spot: &crate::scenario::Spot| Connection {
            stream: None,
            state: State::Down { retry: 0 },
            group: spot.lane * targets + spot.target,
            out: Vec::with_capacity(BUFFER),
            written: 0,
            waits_to_write: false,
            input: vec![0; BUFFER],
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

    /// Carries the requests of a phase that has begun, until it is over and everything is answered.
    pub fn drive(&mut self, worker: &mut Worker) -> io::Result<()> {
        let clock = worker.clock;
        let timeout = nanos(self.settings.timeout);
        let mut events = Vec::with_capacity(1024);
        let mut next_tick = 0;
        loop {
            let now = clock.now();
            let through = worker.is_through(now);
            if through && self.connections.iter().all(|connection| connection.sent.is_empty()) {
                worker.finish(clock.now());
                return Ok(());
            }
            if now >= next_tick {
                worker.tick(now);
                self.look_after(worker, now, timeout);
                next_tick = now + TICK;
            }
            let next_due = if through { Nanos::MAX } else { self.dispatch(worker, now) };
            let wake = next_due.min(next_tick);
            self.wait(&mut events, wake.saturating_sub(clock.now()))?;
            for event in &events {
                let event: &epoll::Event = event;
                let (data, flags) = (event.data.u64(), event.flags);
                if data == TIMER {
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                } else if let Ok(place) = usize::try_from(data) {
                    self.ready(worker, place, flags);
                }
            }
        }
    }

    /// Sleeps at most so long.
    fn wait(&self, events: &mut Vec<epoll::Event>, most: Nanos) -> io::Result<()> {
        events.clear();
        let millis = |n: Nanos| Timespec { tv_sec: 0, tv_nsec: i64::try_from(n * MILLI).unwrap_or(0) };
        // Epoll counts in milliseconds, which is too coarse for what is due.
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
            millis(TICK / MILLI + 10)
        };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what is due where a connection is free; says when something is due next.
    fn dispatch(&mut self, worker: &mut Worker, now: Nanos) -> Nanos {
        let mut next = Nanos::MAX;
        let over = worker.is_over(now);
        for group in 0..self.idle.len() {
            if self.alive[group] == 0 {
                let mut scratch = std::mem::take(&mut self.scratch);
                let spot = self.spot(group);
                if worker.is_open(spot.lane) {
                    worker.refuse(spot, now, &mut scratch);
                }
                self.scratch = scratch;
                continue;
            }
            while let Some(&place) = self.idle[group].front() {
                let spot = self.spot(group);
                let connection = &mut self.connections[place];
                match worker.take(spot, connection.idle_since, now, &mut connection.out) {
                    Take::Send(note) => {
                        self.idle[group].pop_front();
                        connection.is_idle = false;
                        connection.sent.push_back(note);
                        if !worker.is_open(spot.lane) {
                            self.fill(worker, place, now);
                        }
                        self.flush(worker, place, now);
                    }
                    Take::At(due) => {
                        next = next.min(due);
                        break;
                    }
                    Take::Nothing => {
                        // There may be something for it soon.
                        if !over || worker.is_open(spot.lane) {
                            next = next.min(now + MILLI);
                        }
                        break;
                    }
                }
            }
        }
        next
    }

    fn spot(&self, group: usize) -> crate::scenario::Spot {
        let targets = self.settings.targets.len();
        crate::scenario::Spot { lane: group / targets, target: group % targets }
    }

    /// In the closed model: as many at a time as may be.
    fn fill(&mut self, worker: &mut Worker, place: usize, now: Nanos) {
        let spot = self.spot(self.connections[place].group);
        let connection = &mut self.connections[place];
        while connection.sent.len() < self.settings.depth {
            match worker.take(spot, now, now, &mut connection.out) {
                Take::Send(note) => connection.sent.push_back(note),
                Take::At(_) | Take::Nothing => break,
            }
        }
    }

    /// Something can be read, written, or is over.
    fn ready(&mut self, worker: &mut Worker, place: usize, flags: epoll::EventFlags) {
        let connection = &mut self.connections[place];
        let now = worker.clock.now();
        if let State::Connecting { .. } = connection.state {
            let Some(stream) = &connection.stream else { return };
            if !matches!(sockopt::socket_error(stream), Ok(Ok(()))) {
                return self.down(worker, place, Fault::Connect, now);
            }
            if !flags.contains(epoll::EventFlags::OUT) {
                return;
            }
            connection.state = State::Up;
            self.interest(place, false);
            return self.rest(place, now);
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
            } else if connection.input.len() < LARGEST {
                connection.input.resize(connection.input.len() * 2, 0);
            } else {
                return self.down(worker, place, Fault::Malformed, now);
            }
        }
        match stream.read(&mut connection.input[connection.to..]) {
            Ok(0) => return self.down(worker, place, Fault::Closed, now),
            Ok(more) => connection.to += more,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return;
            }
            Err(_) => return self.down(worker, place, Fault::Closed, now),
        }
        now = worker.clock.now().max(now);
        let mut scratch = std::mem::take(&mut self.scratch);
        let after = self.answers(worker, place, now, &mut scratch);
        self.scratch = scratch;
        match after {
            After::Open => {
                let lane = self.spot(self.connections[place].group).lane;
                if !worker.is_open(lane) {
                    self.fill(worker, place, now);
                }
                self.flush(worker, place, now);
                if self.connections[place].sent.is_empty() {
                    self.rest(place, now);
                }
            }
            After::Close => self.down(worker, place, Fault::Closed, now),
            After::Malformed => self.down(worker, place, Fault::Malformed, now),
        }
    }

    /// Takes all the answers that have come.
    fn answers(&mut self, worker: &mut Worker, place: usize, now: Nanos, scratch: &mut Vec<u8>) -> After {
        let connection = &mut self.connections[place];
        while connection.from < connection.to {
            match parse(&connection.input[connection.from..connection.to], scratch) {
                Parsed::Partial => return After::Open,
                Parsed::Malformed => return After::Malformed,
                Parsed::Whole { answer, length, close } => {
                    // An answer to nothing: the server is not one.
                    let Some(note) = connection.sent.pop_front() else { return After::Malformed };
                    worker.answered(&note, &answer, now);
                    connection.from += length;
                    connection.has_served = true;
                    if close {
                        return After::Close;
                    }
                }
            }
        }
        (connection.from, connection.to) = (0, 0);
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
                        self.interest(place, true);
                    }
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.down(worker, place, Fault::Closed, now),
            }
        }
        connection.out.clear();
        connection.written = 0;
        if connection.waits_to_write {
            self.interest(place, false);
        }
    }

    fn rest(&mut self, place: usize, now: Nanos) {
        let connection = &mut self.connections[place];
        if !connection.is_idle {
            (connection.is_idle, connection.idle_since) = (true, now);
            self.idle[connection.group].push_back(place);
        }
    }

    fn interest(&mut self, place: usize, write: bool) {
        let connection = &mut self.connections[place];
        connection.waits_to_write = write;
        let Some(stream) = &connection.stream else { return };
        let flags =
            if write { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        let _ = epoll::modify(&self.epoll, stream, epoll::EventData::new_u64(place as u64), flags);
    }

    /// The connection is over: what was under way on it failed.
    fn down(&mut self, worker: &mut Worker, place: usize, fault: Fault, now: Nanos) {
        let connection = &mut self.connections[place];
        // Closing takes it out of epoll.
        connection.stream = None;
        let had = std::mem::take(&mut connection.sent);
        let refused = matches!(connection.state, State::Connecting { .. });
        if !matches!(connection.state, State::Down { .. }) {
            self.alive[connection.group] -= 1;
        }
        // One that has served is made anew at once; one that was of no use, after a while.
        let at_once = !refused && (connection.has_served || had.is_empty());
        connection.has_served = false;
        connection.state = State::Down { retry: now + nanos(AGAIN) };
        connection.out.clear();
        connection.input.truncate(BUFFER);
        (connection.written, connection.from, connection.to, connection.waits_to_write) = (0, 0, 0, false);
        let group = connection.group;
        if connection.is_idle {
            connection.is_idle = false;
            self.idle[group].retain(|&other| other != place);
        }
        let timeout = nanos(self.settings.timeout);
        for note in &had {
            // Who was behind a time-out did not wait that long.
            let is_ended = fault == Fault::Timeout && note.sent + timeout >= now;
            worker.failed(note, if is_ended { Fault::Closed } else { fault }, now);
        }
        if at_once {
            return self.connect(worker, place, now);
        }
        let spot = self.spot(group);
        if refused && !worker.is_open(spot.lane) {
            let mut scratch = std::mem::take(&mut self.scratch);
            worker.refuse(spot, now, &mut scratch);
            self.scratch = scratch;
        }
    }

    /// Time-outs, and connections to be made.
    fn look_after(&mut self, worker: &mut Worker, now: Nanos, timeout: Nanos) {
        for place in 0..self.connections.len() {
            let connection = &self.connections[place];
            match connection.state {
                State::Down { retry } if retry <= now => self.connect(worker, place, now),
                State::Connecting { since } if since + timeout < now => {
                    self.down(worker, place, Fault::Connect, now);
                }
                State::Up if connection.sent.front().is_some_and(|note| note.sent + timeout < now) => {
                    self.down(worker, place, Fault::Timeout, now);
                }
                _ => {}
            }
        }
    }

    fn connect(&mut self, worker: &mut Worker, place: usize, now: Nanos) {
        let group = self.connections[place].group;
        let address = self.settings.targets[self.spot(group).target].address;
        self.alive[group] += 1;
        self.connections[place].state = State::Connecting { since: now };
        match begin(address) {
            Ok(stream) => {
                let (data, flags) = (epoll::EventData::new_u64(place as u64), epoll::EventFlags::OUT);
                let added = epoll::add(&self.epoll, &stream, data, flags);
                self.connections[place].stream = Some(stream);
                if added.is_err() {
                    self.down(worker, place, Fault::Connect, now);
                }
            }
            Err(_) => self.down(worker, place, Fault::Connect, now),
        }
    }
}

enum After {
    Open,
    Close,
    Malformed,
}

/// A connection that is being made.
fn begin(address: std::net::SocketAddr) -> io::Result<TcpStream> {
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
