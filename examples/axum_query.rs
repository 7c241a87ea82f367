//! An axum server: a request that times out has its SQLite query killed, and the next one uses the same connection.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use axum::extract::{Path, State};
use axum::{Router, http::StatusCode, routing::get};
use rusqlite::Connection;
use throwto::foreign::Call;
use throwto::tokio::spawn_blocking;
use throwto::tower::StopBlockingLayer;
use tower::ServiceBuilder;

/// The sum of the numbers up to the last; for the largest `i64` it has no end.
const SUM: &str =
    "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c WHERE x<?) SELECT sum(x) FROM c";

type Database = State<Arc<Mutex<Connection>>>;

async fn sum(State(database): Database, Path(last): Path<i64>) -> Result<String, StatusCode> {
    let query = move || {
        let connection = database.lock().unwrap();
        let interrupt = connection.get_interrupt_handle();
        let call = Call::new("sqlite3_step").unblock(move || interrupt.interrupt());
        call.try_run(|| connection.query_row(SUM, [last], |row| row.get::<_, i64>(0)))
    };
    let sum = spawn_blocking(query).await.ok().and_then(Result::ok);
    Ok(sum.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?.to_string())
}

fn ask(server: std::net::SocketAddr, path: &str) -> std::io::Result<()> {
    let mut stream = std::net::TcpStream::connect(server)?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    println!("{path}: {}", answer.lines().last().unwrap_or("no answer"));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let late = HandleErrorLayer::new(async |error| (StatusCode::GATEWAY_TIMEOUT, format!("{error}")));
    let limit = StopBlockingLayer::new().time_limit(Duration::from_millis(500));
    let database = Arc::new(Mutex::new(Connection::open_in_memory()?));
    let routes = Router::new().route("/sum/{last}", get(sum)).with_state(database);
    let routes = routes.layer(ServiceBuilder::new().layer(late).layer(limit));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, routes).await });
    ask(server, "/sum/100")?;
    ask(server, &format!("/sum/{}", i64::MAX))?;
    Ok(ask(server, "/sum/10")?)
}

// Output:
// /sum/100: 5050
// /sum/9223372036854775807: the request took longer than 500ms, ..
// /sum/10: 55
