//! `getaddrinfo` through std's `ToSocketAddrs`, asking a name server that keeps silent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use throwto::foreign::Call;

use crate::case::{Case, Out, StuckIn, Trace, Witness};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

pub fn set_up() -> io::Result<Case> {
    let server = UdpSocket::bind("127.0.0.1:0")?;
    let port = server.local_addr()?.port();
    // Each thread has a resolver state of its own; here it is only asked whether there is such a thing.
    std::thread::spawn(move || throwto_fixtures::resolve_through(port))
        .join()
        .map_err(|_| io::Error::other("the resolver's set-up panicked"))??;

    let stuck = move |witness: &Witness| {
        throwto_fixtures::resolve_through(port)?;
        let _guard = witness.guard();
        Call::new("getaddrinfo")
            .fail_syscalls()
            .try_run(|| "stuck.example.invalid.:80".to_socket_addrs())?;
        Ok(())
    };
    let next = || -> Result<i64, Out> {
        let found = Call::new("getaddrinfo")
            .fail_syscalls()
            .try_run(|| "known.example.invalid.:80".to_socket_addrs())?;
        let ours = |address: &std::net::SocketAddr| address.ip() == IpAddr::V4(ADDRESS);
        Ok(found
            .filter(ours)
            .map(|address| i64::from(address.port()))
            .next()
            .unwrap_or(-1))
    };
    let speak = move || drop(std::thread::spawn(move || answer(&server)));
    Ok(Case::new(StuckIn::Call("poll(fd"), stuck, next, 80)
        .clears(Trace::Descriptor)
        .let_through(speak))
}

/// Answers all that is asked, first what the stuck job has asked in vain, until nobody asks any more.
fn answer(server: &UdpSocket) -> io::Result<()> {
    server.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut query = [0; 512];
    loop {
        let (length, from) = server.recv_from(&mut query)?;
        if let Some(reply) = reply_to(&query[..length]) {
            server.send_to(&reply, from)?;
        }
    }
}

/// The DNS message that says: the name has the address above, and no other.
fn reply_to(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name_ends = HEADER + query.get(HEADER..)?.iter().position(|&byte| byte == 0)?;
    let question = query.get(HEADER..name_ends + 5)?;
    let asks_for_ipv4 = query.get(name_ends + 1..name_ends + 3)? == [0, 1];
    let mut reply = query.get(..2)?.to_vec();
    // A response, recursion desired and available, no error; one question, one answer or none.
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(asks_for_ipv4), 0, 0, 0, 0]);
    reply.extend(question);
    if asks_for_ipv4 {
        // The name as asked, type A, class IN, no caching, four bytes.
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        reply.extend(ADDRESS.octets());
    }
    Some(reply)
}
