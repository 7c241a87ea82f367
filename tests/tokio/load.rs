//! A server under load whose clients go away: everything that it opened and started for them is gone afterwards.

use std::io::{PipeWriter, Read, pipe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use throwto::foreign::{Call, CallError};
use throwto::tokio::{JoinError, run_blocking};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use crate::stage::*;

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[derive(Default)]
struct Counts {
    raised: AtomicUsize,
    answered: AtomicUsize,
}

/// Reads for ever from a pipe that nobody writes to, as std does: with retries.
fn stuck(open: PipeWriter, mut silent: impl Read, counts: &Counts) -> Result<u8, CallError<std::io::Error>> {
    let _open = open;
    let mut byte = [0];
    let read = Call::new("read")
        .fail_syscalls()
        .try_run(|| silent.read_exact(&mut byte));
    if matches!(read, Err(CallError::Raised(_))) {
        counts.raised.fetch_add(1, Ordering::SeqCst);
    }
    read.map(|()| byte[0])
}

/// One request a connection: `s`, stuck for ever, or `q`, quick.
async fn serve(mut stream: TcpStream, counts: Arc<Counts>) -> std::io::Result<()> {
    let asked = stream.read_u8().await?;
    let work = run_blocking({
        let counts = Arc::clone(&counts);
        move || {
            if asked == b'q' {
                assert!(throwto::safepoint().is_ok(), "hit by another request's end");
                return Ok(b'a');
            }
            let (reader, writer) = pipe().unwrap();
            stuck(writer, reader, &counts)
        }
    });
    // The client goes away, or it is told that it took too long.
    let mut gone = [0];
    tokio::select! {
        _ = stream.read(&mut gone) => return Ok(()),
        answer = tokio::time::timeout(Duration::from_millis(200), work) => match answer {
            Ok(Ok(Ok(answer))) => {
                counts.answered.fetch_add(1, Ordering::SeqCst);
                stream.write_u8(answer).await?;
            }
            Ok(Err(JoinError::Aborted)) | Err(_) => stream.write_u8(b'l').await?,
            Ok(other) => panic!("{other:?}"),
        },
    }
    Ok(())
}

#[test]
fn a_server_under_load_balances_its_threads_and_descriptors() {
    in_own_process(
        "load::a_server_under_load_balances_its_threads_and_descriptors",
        || {
            // The driver is there from here on.
            assert!(throwto::time::timeout(Duration::from_millis(1), crate::nap).is_err());
            let before = (entries("/proc/self/fd"), entries("/proc/self/task"));
            let counts = Arc::new(Counts::default());
            let runtime = Builder::new_multi_thread()
                .worker_threads(2)
                .max_blocking_threads(32)
                .enable_all()
                .build()
                .unwrap();
            let requests = rounds(600) as usize;
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tokio::spawn({
                    let counts = Arc::clone(&counts);
                    async move {
                        loop {
                            let (stream, _) = listener.accept().await.unwrap();
                            tokio::spawn(serve(stream, Arc::clone(&counts)));
                        }
                    }
                });
                let clients: Vec<_> = (0..64_usize)
                    .map(|client| {
                        tokio::spawn(async move {
                            let mut dice = Dice::new(client as u64 + 1);
                            let mut quick = 0;
                            for number in 0..requests / 64 + 1 {
                                let mut stream = TcpStream::connect(address).await.unwrap();
                                match (client + number) % 3 {
                                    0 => {
                                        stream.write_u8(b'q').await.unwrap();
                                        let answer = stream.read_u8().await.unwrap();
                                        assert!(answer == b'a' || answer == b'l', "{answer}");
                                        quick += usize::from(answer == b'a');
                                    }
                                    1 => {
                                        stream.write_u8(b's').await.unwrap();
                                        assert_eq!(stream.read_u8().await.unwrap(), b'l');
                                    }
                                    _ => {
                                        stream.write_u8(b's').await.unwrap();
                                        tokio::time::sleep(Duration::from_millis(dice.roll(20))).await;
                                    }
                                }
                            }
                            quick
                        })
                    })
                    .collect();
                let mut quick = 0;
                for client in clients {
                    quick += client.await.unwrap();
                }
                assert!(quick > 0);
                assert_eq!(counts.answered.load(Ordering::SeqCst), quick);
            });
            assert!(throwto::tokio::shutdown(runtime, LIMIT).is_empty());
            assert!(
                counts.raised.load(Ordering::SeqCst) > 0,
                "none was stuck when it was aborted"
            );
            until("no thread is attached", || throwto::threads().is_empty());
            let mut now = (0, 0);
            let balanced = || {
                now = (entries("/proc/self/fd"), entries("/proc/self/task"));
                now.0 <= before.0 && now.1 <= before.1
            };
            until(&format!("{before:?} descriptors and threads"), balanced);
        },
    );
}
