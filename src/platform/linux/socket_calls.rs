//! The system calls on sockets that may block.
//!
//! Owns: the constructors of [`Call`] for sockets, and making a socket. Leaves to `calls` what a call is, to `sockaddr`
//! the addresses.
//! Making a socket does not block.
//!
//! **Signal context:** no.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::calls::{Call, raw};
use super::sockaddr::SockAddr;

/// Whether a received datagram stays in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receive {
    Take,
    Peek,
}

impl<'a> Call<'a> {
    /// Takes a connection, and with it the peer's address. The new descriptor is closed on exec.
    pub(crate) fn accept(fd: BorrowedFd<'a>, peer: &'a mut SockAddr) -> Self {
        let (address, length) = peer.parts();
        let args = [raw(fd), address, length, libc::SOCK_CLOEXEC as usize, 0, 0];
        Self::making_fd(libc::SYS_accept4, args)
    }

    pub(crate) fn connect(fd: BorrowedFd<'a>, to: &'a SockAddr) -> Self {
        let (address, length) = to.fixed();
        Self::new(libc::SYS_connect, [raw(fd), address, length, 0, 0, 0])
    }

    /// Receives a datagram, without asking for its sender.
    pub(crate) fn receive(fd: BorrowedFd<'a>, buffer: &'a mut [u8], mode: Receive) -> Self {
        let (buffer, length) = (buffer.as_mut_ptr() as usize, buffer.len());
        Self::new(libc::SYS_recvfrom, [raw(fd), buffer, length, flags(mode), 0, 0])
    }

    /// Receives a datagram and its sender.
    pub(crate) fn receive_from(
        fd: BorrowedFd<'a>,
        buffer: &'a mut [u8],
        mode: Receive,
        sender: &'a mut SockAddr,
    ) -> Self {
        let (address, address_length) = sender.parts();
        let (buffer, length) = (buffer.as_mut_ptr() as usize, buffer.len());
        let args = [raw(fd), buffer, length, flags(mode), address, address_length];
        Self::new(libc::SYS_recvfrom, args)
    }

    /// Sends a datagram, to the connected peer if no other is named. Never raises `SIGPIPE`.
    pub(crate) fn send(fd: BorrowedFd<'a>, buffer: &'a [u8], to: Option<&'a SockAddr>) -> Self {
        let (address, address_length) = to.map_or((0, 0), SockAddr::fixed);
        let (buffer, length) = (buffer.as_ptr() as usize, buffer.len());
        let args = [
            raw(fd),
            buffer,
            length,
            libc::MSG_NOSIGNAL as usize,
            address,
            address_length,
        ];
        Self::new(libc::SYS_sendto, args)
    }
}

fn flags(mode: Receive) -> usize {
    match mode {
        Receive::Take => 0,
        Receive::Peek => libc::MSG_PEEK as usize,
    }
}

/// A stream socket of the family that can connect to `to`, closed on exec.
pub(crate) fn stream_socket(to: &SockAddr) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    let call = Call::making_fd(
        libc::SYS_socket,
        [to.family() as usize, kind as usize, 0, 0, 0, 0],
    );
    match call.unchecked() {
        error if error < 0 => Err(io::Error::from_raw_os_error(-error as i32)),
        _ => call.into_fd(),
    }
}

/// Whether a connect on a socket that does not block has only begun.
pub(crate) fn has_begun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS)
}
