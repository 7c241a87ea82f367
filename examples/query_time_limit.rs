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

    // Limits nest: the whole batch has one, each query a shorter one.
    let batch = timeout(limit, || {
        let mut late = 0;
        loop {
            match timeout(limit / 5, || query(&connection, endless)) {
                Ok(Err(CallError::Raised(of_the_batch))) => return Err::<(), _>(of_the_batch),
                _ => late += 1,
            }
            println!("a query was late: {}", late > 0);
            timeout(2 * limit, || throwto::thread::sleep(4 * limit)).unwrap_or(Ok(()))?;
        }
    });
    println!("the batch: {}", batch.unwrap_err());
    Ok(())
}

// Output:
// WITH RECURSIVE c(x) : timed out
// SELECT 6 * 7: 42
// SELECT no_such_colum: no such column: no_such_column..
// a query was late: true
// the batch: timed out
