//! Blocking tasks that are stuck in each kind of thing.

use std::net::{TcpListener, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use rusqlite::Connection;
use throwto::foreign::{Call, CallError};
use throwto::tokio::AbortHandle;
use throwto::{Raised, Rung};
use throwto_fixtures::resolve_through;

use crate::stage::*;
use crate::{nap, until_stuck};

/// A body that stays stuck until it is raised into, and how one sees that it is.
pub struct Stuck {
    pub name: &'static str,
    pub body: Box<dyn FnOnce() -> Result<(), Raised> + Send>,
    pub until: Box<dyn Fn(&AbortHandle)>,
}

impl Stuck {
    fn new(
        name: &'static str,
        body: impl FnOnce() -> Result<(), Raised> + Send + 'static,
        until: impl Fn(&AbortHandle) + 'static,
    ) -> Self {
        Self {
            name,
            body: Box::new(body),
            until: Box::new(until),
        }
    }

    fn at(
        name: &'static str,
        place: &'static str,
        body: impl FnOnce() -> Result<(), Raised> + Send + 'static,
    ) -> Self {
        Self::new(name, body, move |task| until_stuck(task, place))
    }
}

/// The exception, which is the only way out.
#[track_caller]
fn raised<T, E: std::fmt::Debug>(outcome: Result<T, CallError<E>>) -> Result<(), Raised> {
    match outcome {
        Err(CallError::Raised(raised)) => Err(raised),
        Ok(_) => panic!("it came back by itself"),
        Err(other) => panic!("{other:?}"),
    }
}

/// An endless query on `connection`.
pub fn endless(connection: &Connection) -> Result<(), Raised> {
    let interrupt = connection.get_interrupt_handle();
    let endless = "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";
    raised(
        Call::new("sqlite3_step")
            .unblock(move || interrupt.interrupt())
            .try_run(|| connection.query_row(endless, [], |row| row.get::<_, i64>(0))),
    )
}

pub fn in_query(task: &AbortHandle) {
    until("in a query", || {
        task.thread()
            .is_some_and(|info| info.region == Some("sqlite3_step"))
    });
}

/// The gate by which a test ends [`deaf`].
pub fn deaf() -> (Sender<()>, impl FnOnce() + Send + 'static) {
    let (gate, wait) = std::sync::mpsc::channel::<()>();
    (gate, move || {
        let _ = wait.recv();
    })
}

pub fn places() -> Vec<Stuck> {
    let mut places = vec![
        Stuck::at("sleep", "futex wait", nap),
        Stuck::at("recv", "futex wait", || {
            let (_sender, receiver) = throwto::sync::channel::<()>();
            match receiver.recv() {
                Err(error) => Err(error.into_raised().expect("nobody sends")),
                Ok(()) => panic!("nobody sends"),
            }
        }),
        Stuck::new(
            "sqlite",
            || endless(&Connection::open_in_memory().unwrap()),
            in_query,
        ),
        Stuck::new(
            "safepoints",
            || {
                loop {
                    throwto::safepoint_unwind();
                }
            },
            |task| until("started", || task.thread().is_some()),
        ),
    ];
    if Call::supports(Rung::Fail) {
        places.push(Stuck::at("accept", "accept4(", || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            raised(Call::new("accept").fail_syscalls().try_run(|| listener.accept()))
        }));
        places.push(Stuck::at("getaddrinfo", "poll(", || {
            let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
            resolve_through(silent.local_addr().unwrap().port()).unwrap();
            let name = ("nobody.test", 80);
            raised(
                Call::new("getaddrinfo")
                    .fail_syscalls()
                    .try_run(|| name.to_socket_addrs()),
            )
        }));
    }
    #[cfg(throwto_forced)]
    {
        use crate::forced::{abandoned, enter, place};
        let stage = Arc::new(throwto_fixtures::stuck::Stage::new());
        let seen = Arc::clone(&stage);
        places.push(Stuck::new(
            "c loop",
            move || {
                let left = enter(&abandoned("c loop"), place("spin_o2"), &stage).map(drop);
                throwto::foreign::clear_poison("c loop");
                left
            },
            move |_| until("spinning", || seen.rounds() > 10),
        ));
    }
    places
}
