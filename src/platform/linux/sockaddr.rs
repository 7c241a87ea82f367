//! Socket addresses as the kernel has them.
//!
//! Owns: the conversion between [`SockAddr`] and std's addresses. Leaves to `socket_calls` where one is used. Pure.
//!
//! **Signal context:** no.
//!
//! A buffer of bytes instead of libc's structures: fields are read and written at their offsets, so that nothing is
//! transmuted.

use std::ffi::OsStr;
use std::io;
use std::mem::offset_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr as UnixAddr;

const SIZE: usize = size_of::<libc::sockaddr_storage>();

/// An address and its length, in the form that system calls take and fill in.
#[repr(C, align(8))]
#[derive(Clone)]
pub(crate) struct SockAddr {
    bytes: [u8; SIZE],
    length: libc::socklen_t,
}

impl SockAddr {
    /// Room for any address.
    pub(crate) fn room() -> Self {
        Self {
            bytes: [0; SIZE],
            length: SIZE as libc::socklen_t,
        }
    }

    pub(crate) fn of(addr: &SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(v4) => {
                let mut this = Self::new(libc::AF_INET, size_of::<libc::sockaddr_in>());
                this.put(offset_of!(libc::sockaddr_in, sin_port), &v4.port().to_be_bytes());
                this.put(offset_of!(libc::sockaddr_in, sin_addr), &v4.ip().octets());
                this
            }
            SocketAddr::V6(v6) => {
                let mut this = Self::new(libc::AF_INET6, size_of::<libc::sockaddr_in6>());
                this.put(
                    offset_of!(libc::sockaddr_in6, sin6_port),
                    &v6.port().to_be_bytes(),
                );
                this.put(
                    offset_of!(libc::sockaddr_in6, sin6_flowinfo),
                    &v6.flowinfo().to_ne_bytes(),
                );
                this.put(offset_of!(libc::sockaddr_in6, sin6_addr), &v6.ip().octets());
                this.put(
                    offset_of!(libc::sockaddr_in6, sin6_scope_id),
                    &v6.scope_id().to_ne_bytes(),
                );
                this
            }
        }
    }

    pub(crate) fn of_unix(addr: &UnixAddr) -> Self {
        let name = match (addr.as_pathname(), addr.as_abstract_name()) {
            (Some(path), _) => [path.as_os_str().as_bytes(), b"\0"].concat(),
            (None, Some(name)) => [b"\0", name].concat(),
            (None, None) => Vec::new(),
        };
        // The longest path that the kernel knows has no end.
        let name = name.get(..NAME).unwrap_or(&name);
        let mut this = Self::new(libc::AF_UNIX, PATH + name.len());
        this.put(PATH, name);
        this
    }

    /// The address, if the kernel filled in an IP one.
    pub(crate) fn to_ip(&self) -> io::Result<SocketAddr> {
        match i32::from(self.family()) {
            libc::AF_INET if self.len() >= size_of::<libc::sockaddr_in>() => {
                let port = u16::from_be_bytes(self.get(offset_of!(libc::sockaddr_in, sin_port)));
                let ip: [u8; 4] = self.get(offset_of!(libc::sockaddr_in, sin_addr));
                Ok(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
            }
            libc::AF_INET6 if self.len() >= size_of::<libc::sockaddr_in6>() => {
                let port = u16::from_be_bytes(self.get(offset_of!(libc::sockaddr_in6, sin6_port)));
                let flow = u32::from_ne_bytes(self.get(offset_of!(libc::sockaddr_in6, sin6_flowinfo)));
                let ip: [u8; 16] = self.get(offset_of!(libc::sockaddr_in6, sin6_addr));
                let scope = u32::from_ne_bytes(self.get(offset_of!(libc::sockaddr_in6, sin6_scope_id)));
                Ok(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into())
            }
            _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        }
    }

    /// The address, if the kernel filled in a Unix one. A peer that is bound to nothing has an unnamed one.
    ///
    /// # Errors
    /// A path of 108 bytes leaves no room for its end: a socket can be bound to it, but std makes no address of it.
    pub(crate) fn to_unix(&self) -> io::Result<UnixAddr> {
        let name = self.bytes.get(PATH..self.len()).unwrap_or(&[]);
        match name.split_first() {
            // Datagrams from unbound senders come with a length of zero.
            None => UnixAddr::from_pathname(""),
            Some((0, name)) => UnixAddr::from_abstract_name(name),
            Some(_) => {
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                UnixAddr::from_pathname(OsStr::from_bytes(&name[..end]))
            }
        }
    }

    /// Where the kernel finds the address, and its length as it is given and taken.
    pub(super) fn parts(&mut self) -> (usize, usize) {
        (self.bytes.as_mut_ptr() as usize, &raw mut self.length as usize)
    }

    /// Where the kernel finds an address that it only reads, and its length.
    pub(super) fn fixed(&self) -> (usize, usize) {
        (self.bytes.as_ptr() as usize, self.len())
    }

    pub(super) fn family(&self) -> libc::sa_family_t {
        libc::sa_family_t::from_ne_bytes(self.get(offset_of!(libc::sockaddr, sa_family)))
    }

    fn new(family: libc::c_int, length: usize) -> Self {
        let mut this = Self {
            bytes: [0; SIZE],
            length: length as libc::socklen_t,
        };
        this.put(
            offset_of!(libc::sockaddr, sa_family),
            &(family as libc::sa_family_t).to_ne_bytes(),
        );
        this
    }

    fn len(&self) -> usize {
        (self.length as usize).min(SIZE)
    }

    fn put(&mut self, at: usize, field: &[u8]) {
        self.bytes[at..at + field.len()].copy_from_slice(field);
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.bytes[at + i])
    }
}

/// Where a Unix address's name begins, and how long it may be.
const PATH: usize = offset_of!(libc::sockaddr_un, sun_path);
const NAME: usize = size_of::<libc::sockaddr_un>() - PATH;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ip_address_survives_the_kernels_form() {
        for text in ["0.0.0.0:0", "127.0.0.1:65535", "[::1]:80", "[2001:db8::7]:443"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(SockAddr::of(&addr).to_ip().unwrap(), addr);
        }
        let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0x0102_0304, 0x0506_0708).into();
        assert_eq!(SockAddr::of(&scoped).to_ip().unwrap(), scoped);
    }

    #[test]
    fn unix_addresses_survive_whether_path_abstract_or_unnamed() {
        let path = UnixAddr::from_pathname("/tmp/socket").unwrap();
        let back = SockAddr::of_unix(&path).to_unix().unwrap();
        assert_eq!(back.as_pathname(), path.as_pathname());
        let hidden = UnixAddr::from_abstract_name(b"a\0b").unwrap();
        let back = SockAddr::of_unix(&hidden).to_unix().unwrap();
        assert_eq!(back.as_abstract_name(), Some(&b"a\0b"[..]));
        let mut nothing = SockAddr::room();
        nothing.length = 0;
        assert!(nothing.to_unix().unwrap().is_unnamed());
        assert!(nothing.to_ip().is_err());
        let unnamed = SockAddr::of_unix(&UnixAddr::from_pathname("").unwrap());
        assert_eq!(unnamed.fixed().1, PATH, "a family and nothing else");
        assert!(unnamed.to_unix().unwrap().is_unnamed());
    }

    #[test]
    fn the_longest_names_survive_and_longer_ones_are_refused() {
        let path = "p".repeat(NAME - 1);
        let longest = SockAddr::of_unix(&UnixAddr::from_pathname(&path).unwrap());
        assert_eq!(longest.fixed().1, size_of::<libc::sockaddr_un>());
        assert_eq!(longest.to_unix().unwrap().as_pathname(), Some(path.as_ref()));
        let name = vec![b'n'; NAME - 1];
        let longest = SockAddr::of_unix(&UnixAddr::from_abstract_name(&name).unwrap());
        assert_eq!(longest.to_unix().unwrap().as_abstract_name(), Some(&name[..]));
        // The kernel's own: a path that fills the field, with an end behind it or without.
        let mut full = longest;
        full.put(PATH, &[b'f'; NAME]);
        for length in [PATH + NAME, PATH + NAME + 1] {
            full.length = length as libc::socklen_t;
            assert!(full.to_unix().is_err());
        }
    }

    #[test]
    fn an_address_of_any_length_and_family_is_read_within_its_bytes() {
        for family in [0, libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, 0xffff] {
            for length in (0..=SIZE as libc::socklen_t + 1).chain([libc::socklen_t::MAX]) {
                for byte in [0, b'x', 0xff] {
                    let mut addr = SockAddr::new(family, 0);
                    addr.put(PATH, &[byte; SIZE - PATH]);
                    addr.length = length;
                    let whole = match family {
                        libc::AF_INET => size_of::<libc::sockaddr_in>(),
                        libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
                        _ => usize::MAX,
                    };
                    assert_eq!(
                        addr.to_ip().is_ok(),
                        length as usize >= whole,
                        "{family}: {length}"
                    );
                    let _any = addr.to_unix();
                }
            }
        }
    }
}
