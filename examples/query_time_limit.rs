//! A time limit on a SQLite query, on the thread that runs it: `timeout` around, the hook inside.

use std::time::Duration;

use rusqlite::Connection;
use throwto::TimedOut;
use throwto::foreign::{Call, CallError};
use throwto::time::timeout;

type Answer = Result<i64, CallError<rusqlite::Error>>;

fn query(connection: &Connection, sql: &str) -> Answer {
    let interrupt = connection.get_interrupt_handle();
    Call::new("sqlite3_step")
        .unblock(move || interrupt.interrupt())
        .try_run(|| connection.query_row(sql, [], |row| row.get(0)))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let connection = Connection::open_in_memory()?;
    let endless = "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";
    let limit = Duration::from_millis(500);

    for sql in [endless, "SELECT 6 * 7", "SELECT no_such_column"] {
        // The limit knows its own exception, whatever error it comes out in.
        match timeout(limit, || query(&connection, sql)) {
            Ok(Ok(value)) => println!("{sql:.20}: {value}"),
            Ok(Err(error)) => println!("{sql:.20}: {error}"),
            Err(TimedOut) => println!("{sql:.20}: {TimedOut}"),
        }
    }

    // Limits nest: the batch has one, each of its queries another. Each limit ends what is its own, and the nearest wins.
    let batch = timeout(2 * limit, || {
        let first = timeout(limit / 5, || query(&connection, endless));
        println!("the first query of the batch: {}", first.unwrap_err());
        timeout(10 * limit, || query(&connection, endless))
    });
    println!("the batch: {}", batch.unwrap_err());
    Ok(())
}

// Output:
// WITH RECURSIVE c(x) : timed out
// SELECT 6 * 7: 42
// SELECT no_such_colum: no such column: no_such_column..
// the first query of the batch: timed out
// the batch: timed out
