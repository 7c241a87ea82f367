//! Connecting: [`connect`], [`connect_timeout`], [`connect_unix`], and [`Interruptible::connect`] as std spells it.
//!
//! Owns: what a signal or a raise halfway through a connection attempt means. Leaves to std the resolving of names, in a
//! foreign region. Everything here may block.
//!
//! **Signal context:** no.
//!
//! A `connect` that a signal ends goes on in the kernel, and asking again is not portable. So after a signal that raises
//! nothing we wait until the socket is writable and ask it how it went. After a raise the socket is closed: the peer may
//! have seen a connection that ends at once.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::readiness::poll_until;
use super::{Interruptible, PollFd, attempt, complete, wait_writable};
use crate::foreign;
use crate::platform::calls::Call;
use crate::platform::sockaddr::SockAddr;
use crate::platform::socket_calls::{has_begun, stream_socket};
use crate::raised::Raised;
use crate::receipt::deadline_after;

/// Connects to the first address that takes the connection: `TcpStream::connect` that can be raised into.
///
/// Names are resolved by std in a [foreign region](crate::foreign::Call) with the rung *fail*. Raised means that there
/// is no connection any more: the socket has been closed. A cancellation point.
///
/// # Errors
/// The exception, as an `io::Error` of kind `Other`; else what the last address tried says.
///
/// ```
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let stream = throwto::io::connect(listener.local_addr()?)?;
/// assert_eq!(stream.get_ref().peer_addr()?, listener.local_addr()?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn connect(addr: impl ToSocketAddrs) -> io::Result<Interruptible<TcpStream>> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the name resolves to no address");
    for addr in resolve(addr)? {
        match connect_to(&addr) {
            Ok(stream) => return Ok(Interruptible::new(stream)),
            Err(error) if is_raised(&error) => return Err(error),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Connects to `addr` within `limit`: `TcpStream::connect_timeout` that can be raised into.
///
/// A limit too long for the clock waits as long as the system does. A cancellation point.
///
/// # Errors
/// `TimedOut` when the time is over, `InvalidInput` for a limit of zero, as in std; else as [`connect`].
///
/// ```
/// use std::time::Duration;
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let stream = throwto::io::connect_timeout(&listener.local_addr()?, Duration::from_secs(5))?;
/// assert!(stream.get_ref().take_error()?.is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn connect_timeout(addr: &SocketAddr, limit: Duration) -> io::Result<Interruptible<TcpStream>> {
    if limit.is_zero() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a time limit of zero: nothing connects that fast",
        ));
    }
    let deadline = deadline_after(limit);
    let addr = SockAddr::of(addr);
    let stream = TcpStream::from(stream_socket(&addr)?);
    stream.set_nonblocking(true)?;
    match complete(&Call::connect(stream.as_fd(), &addr)) {
        Ok(_) => {}
        Err(error) if has_begun(&error) => {
            if poll_until(&mut [PollFd::writable(&stream)], deadline)? == 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out"));
            }
            outcome(&stream)?;
        }
        Err(error) => return Err(error),
    }
    stream.set_nonblocking(false)?;
    Ok(Interruptible::new(stream))
}

/// Connects to the Unix socket at `path`: `UnixStream::connect` that can be raised into. It blocks while the listener's
/// queue is full.
///
/// # Errors
/// As [`connect`].
///
/// ```
/// let path = std::env::temp_dir().join(format!("throwto-connect-{}", std::process::id()));
/// let listener = std::os::unix::net::UnixListener::bind(&path)?;
/// let stream = throwto::io::connect_unix(&path);
/// std::fs::remove_file(&path)?;
/// assert!(stream?.get_ref().take_error()?.is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn connect_unix(path: impl AsRef<Path>) -> io::Result<Interruptible<UnixStream>> {
    let addr = SockAddr::of_unix(&UnixAddr::from_pathname(path)?);
    let socket = stream_socket(&addr)?;
    // A Unix connection is made whole or not at all: after a signal we ask again.
    complete(&Call::connect(socket.as_fd(), &addr))?;
    Ok(Interruptible::new(UnixStream::from(socket)))
}

/// As the functions `connect` of `std::net::TcpStream`.
impl Interruptible<TcpStream> {
    /// [`connect`](connect()), under the name that std has for it.
    ///
    /// # Errors
    /// As [`connect`](connect()).
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use throwto::io::Interruptible;
    /// let listener = Interruptible::new(std::net::TcpListener::bind("127.0.0.1:0")?);
    /// let mut client = Interruptible::connect(listener.get_ref().local_addr()?)?;
    /// let (server, _) = listener.accept()?;
    /// client.write_all(b"!")?;
    /// assert_eq!(Interruptible::new(server).read(&mut [0; 2])?, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn connect(addr: impl ToSocketAddrs) -> io::Result<Self> {
        connect(addr)
    }

    /// [`connect_timeout`](connect_timeout()), under the name that std has for it.
    ///
    /// # Errors
    /// As [`connect_timeout`](connect_timeout()).
    #[track_caller]
    pub fn connect_timeout(addr: &SocketAddr, limit: Duration) -> io::Result<Self> {
        connect_timeout(addr, limit)
    }
}

#[track_caller]
fn connect_to(addr: &SocketAddr) -> io::Result<TcpStream> {
    let addr = SockAddr::of(addr);
    let socket: OwnedFd = stream_socket(&addr)?;
    let connected = attempt(&Call::connect(socket.as_fd(), &addr))?;
    let stream = TcpStream::from(socket);
    if connected.is_none() {
        wait_writable(&stream, None)?;
        outcome(&stream)?;
    }
    Ok(stream)
}

/// How the attempt went that has left `stream` writable.
fn outcome(stream: &TcpStream) -> io::Result<()> {
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[track_caller]
fn resolve(addr: impl ToSocketAddrs) -> io::Result<Vec<SocketAddr>> {
    let resolved = foreign::Call::new("getaddrinfo")
        .fail_syscalls()
        .try_run(|| addr.to_socket_addrs());
    Ok(resolved?.collect())
}

fn is_raised(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Raised>())
}
