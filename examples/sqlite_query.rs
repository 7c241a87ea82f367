//! A time limit for a SQLite query: the hook calls `sqlite3_interrupt`, and the connection serves the next query.

use std::sync::mpsc::channel;
use std::time::Duration;

use rusqlite::Connection;
use throwto::foreign::{Call, CallError};
use throwto::{TimedOut, thread};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let connection = Connection::open_in_memory()?;
    let (queries, to_run) = channel::<&str>();
    let (results, answers) = channel();

    let database = thread::spawn(move || {
        for sql in to_run {
            let interrupt = connection.get_interrupt_handle();
            let answer = Call::new("sqlite3_step")
                .unblock(move || interrupt.interrupt())
                .try_run(|| connection.query_row(sql, [], |row| row.get::<_, i64>(0)));
            let _ = results.send(match answer {
                Ok(value) => format!("{value}"),
                Err(CallError::Raised(raised)) if raised.is::<TimedOut>() => {
                    format!("stopped by {}", raised.rung())
                }
                Err(error) => format!("{error}"),
            });
        }
    });

    let endless = "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";
    for sql in [endless, "SELECT 6 * 7", "SELECT no_such_column"] {
        queries.send(sql)?;
        let answer = match answers.recv_timeout(Duration::from_secs(3)) {
            Ok(answer) => answer,
            Err(_too_late) => {
                database.raise(TimedOut)?;
                answers.recv()?
            }
        };
        println!("{:.20}: {answer}", sql);
    }

    drop(queries);
    database.join()?;
    Ok(())
}

// Output:
// WITH RECURSIVE c(x) : stopped by hook
// SELECT 6 * 7: 42
// SELECT no_such_colum: no such column: no_such_column..
