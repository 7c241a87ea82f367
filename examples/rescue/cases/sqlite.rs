//! A SQLite query that never ends. SQLite offers two ways out, and each serves.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use throwto::foreign::Call;

use crate::case::{Case, Out, StuckIn, Witness};

const ENDLESS: &str = "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";
/// The label of the call, and what the thread is seen in.
const LABEL: &str = "sqlite3_step";

type Shared = Arc<Mutex<Connection>>;

fn open() -> io::Result<Shared> {
    Ok(Arc::new(Mutex::new(
        Connection::open_in_memory().map_err(io::Error::other)?,
    )))
}

fn query(connection: &Shared, call: Call<'_>, sql: &str) -> Result<i64, Out> {
    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(call.try_run(|| connection.query_row(sql, [], |row| row.get(0)))?)
}

/// The driver calls `sqlite3_interrupt`.
pub fn set_up_hook() -> io::Result<Case> {
    let connection = open()?;
    let same = Arc::clone(&connection);
    let stuck = move |witness: &Witness| {
        let interrupt = connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_interrupt_handle();
        let _guard = witness.guard();
        query(
            &connection,
            Call::new(LABEL).unblock(move || interrupt.interrupt()),
            ENDLESS,
        )?;
        Ok(())
    };
    let next = move || query(&same, Call::new(LABEL), "SELECT 6 * 7");
    Ok(Case::new(StuckIn::Running(LABEL), stuck, next, 42))
}

/// SQLite asks, every thousand steps of its machine, whether it shall go on.
pub fn set_up_progress() -> io::Result<Case> {
    let connection = open()?;
    let same = Arc::clone(&connection);
    let rounds = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&rounds);
    let ask = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        throwto::pending()
    };
    connection
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .progress_handler(1000, Some(ask))
        .map_err(io::Error::other)?;
    let stuck = move |witness: &Witness| {
        let _guard = witness.guard();
        query(&connection, Call::new(LABEL), ENDLESS)?;
        Ok(())
    };
    let next = move || query(&same, Call::new(LABEL), "SELECT 6 * 7");
    Ok(Case::new(StuckIn::Counting(rounds), stuck, next, 42))
}
