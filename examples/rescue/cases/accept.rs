//! `std::net::TcpListener::accept`, which retries EINTR for ever.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use throwto::foreign::Call;

use crate::case::{Case, Out, StuckIn, Trace, Witness};

pub fn set_up() -> io::Result<Case> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let stuck = move |witness: &Witness| {
        let listener = listener;
        let _guard = witness.guard();
        Call::new("accept")
            .fail_syscalls()
            .try_run(|| listener.accept())?;
        Ok(())
    };

    let visited = TcpListener::bind("127.0.0.1:0")?;
    let address = visited.local_addr()?;
    let next = move || -> Result<i64, Out> {
        let (mut visitor, _) = Call::new("accept").fail_syscalls().try_run(|| visited.accept())?;
        let mut word = String::new();
        Ok(visitor.read_to_string(&mut word)? as i64)
    };
    // Should the visit fail, the next job fails at its time limit, which is reported.
    let visit = move || drop(TcpStream::connect(address).and_then(|mut stream| stream.write_all(b"hello")));
    Ok(Case::new(StuckIn::Call("accept"), stuck, next, 5)
        .clears(Trace::Descriptor)
        .let_through(visit))
}
