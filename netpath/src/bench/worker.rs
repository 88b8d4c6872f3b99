//! The traffic generator: one process a side, in the side's namespace and on the side's core.
//!
//! Both sides get the same window of time (CLOCK_MONOTONIC, which all processes share), and
//! note their counts when they cross its edges: what happens before or after is not counted.
//! Transactions are counted by the client, bytes and packets by the server, because a sender
//! only knows what it has handed over.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, alarm};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// What a server prints when it can be dialled.
pub const READY: &str = "ready";
/// Payload of a datagram in bytes.
pub const DATAGRAM: usize = 64;
/// Waiting is cut into pieces of this length, to see whether the window is over.
const PATIENCE: Duration = Duration::from_millis(20);
/// No connection takes longer to make, and no single answer to come.
const STUCK: Duration = Duration::from_secs(2);
/// A worker that lives this many seconds longer than its window hangs.
const OVERTIME: u64 = 10;
/// Datagrams between two looks at the clock.
const BURST: u64 = 16;
/// Room for datagrams that wait, in bytes: what is lost shall be lost in the datapath.
const UDP_BUFFER: usize = 4 << 20;

/// The side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Waits for the other.
    Server,
    /// Dials.
    Client,
}

/// What goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Traffic {
    /// TCP, one byte there and one byte back on one connection.
    RoundTrips,
    /// TCP, a connection for every byte there and back; the client ends it by a reset, so
    /// that no port is kept in TIME_WAIT.
    Connections,
    /// TCP, one way, in writes of this many bytes.
    Stream(usize),
    /// UDP, one way, [`DATAGRAM`] bytes each, to a receiver that never sleeps.
    Datagrams,
    /// The same to a receiver that sleeps until there is a datagram.
    WakingDatagrams,
}

impl Traffic {
    /// The side that counts.
    pub const fn counted_by(self) -> Role {
        match self {
            Self::RoundTrips | Self::Connections => Role::Client,
            Self::Stream(_) | Self::Datagrams | Self::WakingDatagrams => Role::Server,
        }
    }
}

/// What one side is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Which side it is.
    pub role: Role,
    /// What goes over the wire.
    pub traffic: Traffic,
    /// Where the server listens, or what the client dials.
    pub address: SocketAddr,
    /// The core to stay on.
    pub cpu: usize,
    /// Cores whose busy time is noted: those of both sides.
    pub watched: Vec<usize>,
    /// Beginning and end of the window, in ns of CLOCK_MONOTONIC.
    pub window: (u64, u64),
    /// TCP congestion control.
    pub congestion: String,
}

/// What one side saw.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Transactions, connections, bytes or packets inside the window.
    pub units: u64,
    /// Length of the window as this side saw it, in seconds.
    pub seconds: f64,
    /// CPU time of this process in the window, user and system, in µs.
    pub process_us: u64,
    /// Time in which the watched cores were not idle, in µs (the kernel counts in ticks).
    pub busy_us: u64,
    /// Time of the watched cores in soft interrupts, in µs, as far as ticks fell into them.
    pub softirq_us: u64,
    /// Connections that could not be made, all told.
    pub failures: u64,
}

/// Now, in ns of CLOCK_MONOTONIC.
pub fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|time| u64::try_from(time.num_nanoseconds()).ok())
        .unwrap_or(0)
}

/// Does a job and prints the outcome as JSON.
///
/// # Errors
/// The traffic does not flow.
pub fn run(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job).context("this verb is used by `netpath bench`")?;
    let left = job.window.1.saturating_sub(now()) / 1_000_000_000;
    alarm::set(u32::try_from(left + OVERTIME).unwrap_or(u32::MAX));
    pin(job.cpu)?;
    let mut meter = Meter::new(&job);
    match (job.role, job.traffic) {
        (Role::Server, Traffic::RoundTrips) => echo(&job, &mut meter)?,
        (Role::Client, Traffic::RoundTrips) => ask(&job, &mut meter)?,
        (Role::Server, Traffic::Connections) => echo_each(&job, &mut meter)?,
        (Role::Client, Traffic::Connections) => ask_each(&job, &mut meter)?,
        (Role::Server, Traffic::Stream(size)) => swallow(&job, size, &mut meter)?,
        (Role::Client, Traffic::Stream(size)) => pour(&job, size, &mut meter)?,
        (Role::Server, Traffic::Datagrams | Traffic::WakingDatagrams) => catch(&job, &mut meter)?,
        (Role::Client, Traffic::Datagrams | Traffic::WakingDatagrams) => throw(&job, &mut meter)?,
    }
    println!("{}", serde_json::to_string(&meter.outcome()?)?);
    Ok(())
}

/// Keeps this process on one core.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("cannot run on core {cpu}"))
}

/// Notes counts at the edges of the window.
struct Meter {
    from: u64,
    until: u64,
    watched: Vec<usize>,
    units: u64,
    failures: u64,
    began: Option<Mark>,
    ended: Option<Mark>,
}

#[derive(Clone, Copy)]
struct Mark {
    at: u64,
    units: u64,
    process_us: u64,
    busy_us: u64,
    softirq_us: u64,
}

impl Meter {
    fn new(job: &Job) -> Self {
        Self {
            from: job.window.0,
            until: job.window.1,
            watched: job.watched.clone(),
            units: 0,
            failures: 0,
            began: None,
            ended: None,
        }
    }

    /// Counts, and says whether to go on.
    fn count(&mut self, units: u64) -> bool {
        self.units += units;
        let now = now();
        if now >= self.until {
            self.ended = Some(self.mark(now));
            return false;
        }
        if self.began.is_none() && now >= self.from {
            self.began = Some(self.mark(now));
        }
        true
    }

    /// The other side went away, which it may once the window is over, with the last unit
    /// still to come here.
    fn gone(&mut self, error: Option<io::Error>) -> Result<()> {
        let early = self.until.saturating_sub(now());
        if self.count(0) && early > Duration::from_millis(100).as_nanos() as u64 {
            match error {
                Some(error) => Err(error).context("the traffic stopped"),
                None => bail!("the other side ended too early"),
            }
        } else {
            if self.ended.is_none() {
                self.ended = Some(self.mark(now()));
            }
            Ok(())
        }
    }

    fn mark(&self, at: u64) -> Mark {
        let process_us = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| {
            (usage.user_time() + usage.system_time()).num_microseconds()
        });
        let (busy_us, softirq_us) = busy(&self.watched);
        Mark {
            at,
            units: self.units,
            process_us: process_us.try_into().unwrap_or(0),
            busy_us,
            softirq_us,
        }
    }

    fn outcome(&self) -> Result<Outcome> {
        let (Some(began), Some(ended)) = (self.began, self.ended) else {
            bail!("no traffic in time");
        };
        Ok(Outcome {
            units: ended.units - began.units,
            seconds: (ended.at - began.at) as f64 / 1e9,
            process_us: ended.process_us.saturating_sub(began.process_us),
            busy_us: ended.busy_us.saturating_sub(began.busy_us),
            softirq_us: ended.softirq_us.saturating_sub(began.softirq_us),
            failures: self.failures,
        })
    }
}

/// Time in which these cores were not idle, and that in soft interrupts, in µs since boot.
fn busy(cpus: &[usize]) -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut sum = (0, 0);
    for cpu in cpus {
        let prefix = format!("cpu{cpu} ");
        let Some(line) = text.lines().find_map(|line| line.strip_prefix(&prefix)) else {
            continue;
        };
        // user nice system idle iowait irq softirq steal (proc_stat(5)), in USER_HZ, which
        // is 100 on every architecture that this runs on.
        let ticks: Vec<u64> = line
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
        let softirq = at(6);
        sum.0 += (at(0) + at(1) + at(2) + at(5) + softirq + at(7)) * 10_000;
        sum.1 += softirq * 10_000;
    }
    sum
}

fn tcp(job: &Job) -> Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(job.address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .context("cannot make a socket")?;
    // A listener hands it down to its connections.
    socket
        .set_tcp_congestion(job.congestion.as_bytes())
        .with_context(|| format!("cannot use the congestion control {}", job.congestion))?;
    Ok(socket)
}

fn listen(job: &Job) -> Result<TcpListener> {
    let socket = tcp(job)?;
    socket.set_reuse_address(true)?;
    // accept(2) and recv(2) wake up now and then, to see whether the window is over.
    socket.set_read_timeout(Some(PATIENCE))?;
    socket
        .bind(&job.address.into())
        .and_then(|()| socket.listen(1024))
        .with_context(|| format!("cannot listen on {}", job.address))?;
    say_ready();
    Ok(socket.into())
}

fn say_ready() {
    println!("{READY}");
    let _ = io::stdout().flush();
}

fn dial(job: &Job) -> Result<TcpStream> {
    let socket = tcp(job)?;
    socket.set_read_timeout(Some(STUCK))?;
    socket.set_write_timeout(Some(STUCK))?;
    // A stream is left as sockets are by default: without Nagle's algorithm each write would be
    // a segment of its own as soon as segments may be larger than writes.
    socket.set_tcp_nodelay(!matches!(job.traffic, Traffic::Stream(_)))?;
    socket
        .connect(&job.address.into())
        .with_context(|| format!("cannot connect to {}", job.address))?;
    Ok(socket.into())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn accept(listener: &TcpListener, meter: &mut Meter) -> Result<Option<TcpStream>> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(error) if is_timeout(&error) => {
                if !meter.count(0) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error).context("cannot accept a connection"),
        }
    }
}

fn echo(job: &Job, meter: &mut Meter) -> Result<()> {
    let listener = listen(job)?;
    let Some(mut stream) = accept(&listener, meter)? else {
        bail!("nobody dialled {}", job.address);
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STUCK))?;
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return meter.gone(None),
            Ok(_) => {}
            Err(error) => return meter.gone(Some(error)),
        }
        if let Err(error) = stream.write_all(&byte) {
            return meter.gone(Some(error));
        }
        // The client ends it: it waits for this answer.
        meter.count(1);
    }
}

fn ask(job: &Job, meter: &mut Meter) -> Result<()> {
    let mut stream = dial(job)?;
    let mut byte = [0];
    loop {
        stream
            .write_all(&[1])
            .and_then(|()| stream.read_exact(&mut byte))
            .context("the traffic stopped")?;
        if !meter.count(1) {
            return Ok(());
        }
    }
}

fn echo_each(job: &Job, meter: &mut Meter) -> Result<()> {
    let listener = listen(job)?;
    let mut byte = [0];
    while let Some(mut stream) = accept(&listener, meter)? {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STUCK))?;
        if stream.read(&mut byte).is_ok_and(|n| n == 1) && stream.write_all(&byte).is_ok() {
            // Waits for the client's reset, or both sides would end the connection.
            let _ = stream.read(&mut byte);
            meter.count(1);
        }
    }
    Ok(())
}

fn ask_each(job: &Job, meter: &mut Meter) -> Result<()> {
    let mut byte = [0];
    loop {
        let done = dial(job).and_then(|mut stream| {
            stream.write_all(&[1])?;
            stream.read_exact(&mut byte)?;
            // Closed without data on its way, this is a reset instead of FIN.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            Ok(())
        });
        if let Err(error) = &done {
            meter.failures += 1;
            ensure!(meter.units > 0, "no connection works: {error:#}");
        }
        if !meter.count(u64::from(done.is_ok())) {
            return Ok(());
        }
    }
}

fn swallow(job: &Job, size: usize, meter: &mut Meter) -> Result<()> {
    let listener = listen(job)?;
    let Some(mut stream) = accept(&listener, meter)? else {
        bail!("nobody dialled {}", job.address);
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; size];
    loop {
        let got = match stream.read(&mut buffer) {
            Ok(0) => return meter.gone(None),
            Ok(got) => got,
            Err(error) if is_timeout(&error) => 0,
            Err(error) => return meter.gone(Some(error)),
        };
        if !meter.count(got as u64) {
            return Ok(());
        }
    }
}

fn pour(job: &Job, size: usize, meter: &mut Meter) -> Result<()> {
    let mut stream = dial(job)?;
    let buffer = vec![1; size];
    loop {
        match stream.write(&buffer) {
            Ok(sent) => {
                if !meter.count(sent as u64) {
                    return Ok(());
                }
            }
            Err(error) => return meter.gone(Some(error)),
        }
    }
}

fn catch(job: &Job, meter: &mut Meter) -> Result<()> {
    let socket = UdpSocket::bind(job.address)
        .with_context(|| format!("cannot listen on {}", job.address))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    force_buffer(&socket, libc::SO_RCVBUFFORCE)?;
    // On the sender's own core, a receiver that never sleeps would take the sender's time.
    let never_sleeps = job.traffic == Traffic::Datagrams && job.watched.len() > 1;
    socket.set_nonblocking(never_sleeps)?;
    say_ready();
    let mut buffer = [0; DATAGRAM];
    let mut got = 0;
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                got += 1;
                if got < BURST {
                    continue;
                }
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
        if !meter.count(got) {
            return Ok(());
        }
        got = 0;
    }
}

fn throw(job: &Job, meter: &mut Meter) -> Result<()> {
    let any: SocketAddr = if job.address.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).context("cannot make a socket")?;
    socket
        .connect(job.address)
        .with_context(|| format!("cannot send to {}", job.address))?;
    let buffer = [1; DATAGRAM];
    loop {
        for _ in 0..BURST {
            // Refused or out of buffers: what counts is what arrives.
            if socket.send(&buffer).is_err() {
                meter.failures += 1;
            }
        }
        if !meter.count(BURST) {
            return Ok(());
        }
    }
}

/// Sets a buffer's size beyond the limit of net.core.rmem_max.
fn force_buffer(socket: &UdpSocket, option: libc::c_int) -> Result<()> {
    use std::os::fd::AsRawFd;
    let size = libc::c_int::try_from(UDP_BUFFER)?;
    // SAFETY: the descriptor is open, and the value is an int of the size that is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error()).context("cannot set the size of a buffer");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_what_is_inside() {
        let job = Job {
            role: Role::Client,
            traffic: Traffic::RoundTrips,
            address: ([127, 0, 0, 1], 1).into(),
            cpu: 0,
            watched: vec![0],
            window: (now() + 20_000_000, now() + 60_000_000),
            congestion: "cubic".into(),
        };
        let mut meter = Meter::new(&job);
        let mut before = 0;
        while meter.count(1) {
            if meter.began.is_none() {
                before += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let outcome = meter.outcome().unwrap();
        assert!(before > 0 && outcome.units < meter.units);
        assert!(outcome.units > 1 && outcome.seconds > 0.03, "{outcome:?}");
    }

    #[test]
    fn cores_are_busy_now_and_then() {
        assert!(busy(&[0]).0 > 0);
        assert_eq!(busy(&[99_999]), (0, 0));
    }
}
