//! Operations of sockets beyond reading and writing: accepting connections, datagrams.
//!
//! Owns: the twins of `accept`, `recv`, `send` and their variants on [`Interruptible`]. Leaves to `platform` addresses
//! and descriptors. Everything here may block; the rules R1 to R4 of [`io`](super) hold of all.
//!
//! **Signal context:** no.

use std::io;
use std::iter::FusedIterator;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use super::{Interruptible, complete};
use crate::platform::calls::Call;
use crate::platform::sockaddr::SockAddr;
use crate::platform::socket_calls::Receive;

#[track_caller]
fn accept(listener: &impl AsFd) -> io::Result<(OwnedFd, SockAddr)> {
    let mut peer = SockAddr::room();
    let call = Call::accept(listener.as_fd(), &mut peer);
    complete(&call)?;
    Ok((call.into_fd()?, peer))
}

#[track_caller]
fn receive_from(socket: &impl AsFd, buffer: &mut [u8], mode: Receive) -> io::Result<(usize, SockAddr)> {
    let mut sender = SockAddr::room();
    let size = complete(&Call::receive_from(socket.as_fd(), buffer, mode, &mut sender))?;
    Ok((size, sender))
}

/// The address of a socket that is bound to nothing.
fn unnamed() -> io::Result<UnixAddr> {
    UnixAddr::from_pathname("")
}

/// The connections to a listener, one after the other, for ever.
#[derive(Debug)]
pub struct Incoming<'a, L> {
    listener: &'a Interruptible<L>,
}

impl Interruptible<TcpListener> {
    /// Waits for a connection: the stream, closed on exec, and the peer's address.
    ///
    /// # Errors
    /// The exception, as an `io::Error` of kind `Other`: then no connection was taken, the next `accept` gets it. Else as
    /// `TcpListener::accept`.
    ///
    /// ```
    /// use throwto::io::Interruptible;
    /// let listener = Interruptible::new(std::net::TcpListener::bind("127.0.0.1:0")?);
    /// let client = std::net::TcpStream::connect(listener.get_ref().local_addr()?)?;
    /// let (_stream, peer) = listener.accept()?;
    /// assert_eq!(peer, client.local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (fd, peer) = accept(self)?;
        Ok((fd.into(), peer.to_ip()?))
    }

    /// [`accept`](Self::accept) for ever: an endless iterator of streams and errors. After a raise it may be asked on.
    pub fn incoming(&self) -> Incoming<'_, TcpListener> {
        Incoming { listener: self }
    }
}

impl Interruptible<UnixListener> {
    /// Waits for a connection: the stream, closed on exec, and the peer's address.
    ///
    /// # Errors
    /// The exception, as an `io::Error` of kind `Other`: then no connection was taken. Else as `UnixListener::accept`.
    #[track_caller]
    pub fn accept(&self) -> io::Result<(UnixStream, UnixAddr)> {
        let (fd, peer) = accept(self)?;
        let stream = UnixStream::from(fd);
        // No name that a peer gives itself loses its connection.
        let peer = peer.to_unix().or_else(|_| stream.peer_addr());
        Ok((stream, peer.or_else(|_| unnamed())?))
    }

    /// [`accept`](Self::accept) for ever: an endless iterator of streams and errors. After a raise it may be asked on.
    pub fn incoming(&self) -> Incoming<'_, UnixListener> {
        Incoming { listener: self }
    }
}

impl Iterator for Incoming<'_, TcpListener> {
    type Item = io::Result<TcpStream>;

    #[track_caller]
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}

impl Iterator for Incoming<'_, UnixListener> {
    type Item = io::Result<UnixStream>;

    #[track_caller]
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}

impl FusedIterator for Incoming<'_, TcpListener> {}
impl FusedIterator for Incoming<'_, UnixListener> {}

/// Raised means that no datagram was taken or sent. What is longer than the buffer is cut off, as in std.
impl Interruptible<UdpSocket> {
    /// Receives a datagram from the connected peer and returns its size in bytes.
    ///
    /// # Errors
    /// The exception, as an `io::Error` of kind `Other`; else as `UdpSocket::recv`.
    #[track_caller]
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        complete(&Call::receive(self.as_fd(), buffer, Receive::Take))
    }

    /// Receives a datagram: its size in bytes and its sender.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    ///
    /// ```
    /// use throwto::io::Interruptible;
    /// let socket = Interruptible::new(std::net::UdpSocket::bind("127.0.0.1:0")?);
    /// let here = socket.get_ref().local_addr()?;
    /// socket.send_to(b"to myself", here)?;
    /// let mut buffer = [0; 64];
    /// assert_eq!(socket.peek_from(&mut buffer)?, (9, here));
    /// assert_eq!(socket.recv_from(&mut buffer)?, (9, here));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (size, sender) = receive_from(self, buffer, Receive::Take)?;
        Ok((size, sender.to_ip()?))
    }

    /// As [`recv`](Self::recv), and leaves the datagram in the queue.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    #[track_caller]
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        complete(&Call::receive(self.as_fd(), buffer, Receive::Peek))
    }

    /// As [`recv_from`](Self::recv_from), and leaves the datagram in the queue.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    #[track_caller]
    pub fn peek_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (size, sender) = receive_from(self, buffer, Receive::Peek)?;
        Ok((size, sender.to_ip()?))
    }

    /// Sends a datagram to the connected peer and returns the size sent.
    ///
    /// # Errors
    /// The exception, as an `io::Error` of kind `Other`; else as `UdpSocket::send`.
    #[track_caller]
    pub fn send(&self, buffer: &[u8]) -> io::Result<usize> {
        complete(&Call::send(self.as_fd(), buffer, None))
    }

    /// Sends a datagram to the first address of `to` and returns the size sent. Resolving a name cannot be raised into:
    /// give an address.
    ///
    /// # Errors
    /// As [`send`](Self::send); `InvalidInput` if `to` has no address.
    #[track_caller]
    pub fn send_to(&self, buffer: &[u8], to: impl ToSocketAddrs) -> io::Result<usize> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "no address to send to");
        let to = to.to_socket_addrs()?.next().ok_or_else(none)?;
        complete(&Call::send(self.as_fd(), buffer, Some(&SockAddr::of(&to))))
    }
}

/// Raised means that no datagram was taken or sent.
impl Interruptible<UnixDatagram> {
    /// Receives a datagram and returns its size in bytes.
    ///
    /// # Errors
    /// The exception, as an `io::Error` of kind `Other`; else as `UnixDatagram::recv`.
    #[track_caller]
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        complete(&Call::receive(self.as_fd(), buffer, Receive::Take))
    }

    /// Receives a datagram: its size in bytes and its sender. One whose path has 108 bytes, for which std has no address,
    /// is unnamed: the datagram is not lost.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    #[track_caller]
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, UnixAddr)> {
        let (size, sender) = receive_from(self, buffer, Receive::Take)?;
        Ok((size, sender.to_unix().or_else(|_| unnamed())?))
    }

    /// Sends a datagram to the connected peer and returns the size sent. It blocks while the peer's queue is full.
    ///
    /// # Errors
    /// The exception, as an `io::Error` of kind `Other`; else as `UnixDatagram::send`.
    ///
    /// ```
    /// use std::os::unix::net::UnixDatagram;
    /// let (here, there) = UnixDatagram::pair()?;
    /// throwto::io::Interruptible::new(here).send(b"hello")?;
    /// assert_eq!(throwto::io::Interruptible::new(there).recv(&mut [0; 8])?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn send(&self, buffer: &[u8]) -> io::Result<usize> {
        complete(&Call::send(self.as_fd(), buffer, None))
    }

    /// Sends a datagram to the socket at `path` and returns the size sent.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[track_caller]
    pub fn send_to(&self, buffer: &[u8], path: impl AsRef<Path>) -> io::Result<usize> {
        let to = SockAddr::of_unix(&UnixAddr::from_pathname(path)?);
        complete(&Call::send(self.as_fd(), buffer, Some(&to)))
    }
}
