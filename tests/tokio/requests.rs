//! The tower layers: a request that is given up takes its blocking work along.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use throwto::tokio::{AbortHandle, JoinError, spawn_blocking};
use throwto::tower::{BoxError, Elapsed, StopBlockingLayer};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::stage::*;
use crate::{each_flavour, ended, nap, narrow, until_stuck};

type Spawned = Arc<Mutex<Vec<AbortHandle>>>;

/// A handler that waits for a blocking task which never ends, or answers and leaves it running.
fn handler(
    spawned: &Spawned,
) -> impl Service<bool, Response = u32, Error = Infallible, Future: Send> + Clone + use<> {
    let spawned = Arc::clone(spawned);
    service_fn(move |wait: bool| {
        // Already here, before the response future is polled.
        let task = spawn_blocking(nap);
        let spawned = Arc::clone(&spawned);
        async move {
            let nested = spawn_blocking(|| spawn_blocking(nap)).await.unwrap();
            spawned
                .lock()
                .unwrap()
                .extend([task.abort_handle(), nested.abort_handle()]);
            if wait {
                let _ = task.await;
            }
            Ok(7)
        }
    })
}

fn take(spawned: &Spawned) -> Vec<AbortHandle> {
    let tasks = std::mem::take(&mut *spawned.lock().unwrap());
    assert_eq!(tasks.len(), 2);
    tasks
}

#[test]
fn a_request_that_takes_too_long_is_answered_and_its_tasks_end() {
    for (_, runtime) in each_flavour(4) {
        let spawned = Spawned::default();
        let mut service = StopBlockingLayer::new()
            .time_limit(Duration::from_millis(50))
            .layer(handler(&spawned));
        let late: BoxError = runtime.block_on(async {
            let response = service.ready().await.unwrap().call(true);
            tokio::pin!(response);
            let late = response.as_mut().await.unwrap_err();
            // The future is still there: it was the limit that ended them.
            for task in take(&spawned) {
                until("ended", || task.is_finished());
            }
            late
        });
        assert_eq!(
            late.downcast_ref::<Elapsed>().unwrap().limit,
            Duration::from_millis(50)
        );
    }
}

#[test]
fn a_request_whose_client_goes_away_takes_its_tasks_along() {
    for (_, runtime) in each_flavour(4) {
        let spawned = Spawned::default();
        let mut service = StopBlockingLayer::new().layer(handler(&spawned));
        let enter = runtime.enter();
        // Its future was never polled.
        drop(service.call(true));
        drop(enter);
        let request = runtime.spawn(async move { service.ready().await.unwrap().call(true).await });
        runtime.block_on(async {
            until_async(|| spawned.lock().unwrap().len() == 2).await;
        });
        let tasks = take(&spawned);
        for task in &tasks {
            until_stuck(task, "futex wait");
        }
        request.abort();
        runtime.block_on(async {
            for task in &tasks {
                until_async(|| task.is_finished()).await;
            }
        });
    }
}

async fn until_async(mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + LIMIT;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "never seen");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_request_that_was_answered_leaves_its_tasks_alone() {
    let (_, runtime) = each_flavour(4).into_iter().next_back().unwrap();
    let spawned = Spawned::default();
    let mut plain = StopBlockingLayer::new().layer(handler(&spawned));
    let mut limited = StopBlockingLayer::new()
        .time_limit(LIMIT)
        .layer(handler(&spawned));
    runtime.block_on(async {
        assert_eq!(plain.ready().await.unwrap().call(false).await.unwrap(), 7);
        assert_eq!(limited.ready().await.unwrap().call(false).await.unwrap(), 7);
    });
    let tasks = std::mem::take(&mut *spawned.lock().unwrap());
    assert_eq!(tasks.len(), 4);
    for task in tasks {
        until_stuck(&task, "futex wait");
        task.abort();
    }
}

#[test]
fn requests_do_not_end_each_others_tasks() {
    let (_, runtime) = each_flavour(8).into_iter().next_back().unwrap();
    let layer = StopBlockingLayer::new();
    let mut service = layer.layer(service_fn(|()| async {
        Ok::<_, Infallible>(spawn_blocking(nap).await)
    }));
    let mut first = Box::pin(service.call(()));
    let second = service.call(());
    let outcome = runtime.block_on(async {
        // Each has spawned its task.
        let waker = futures_poll_once(&mut first).await;
        assert!(waker, "it waits");
        let mut second = Box::pin(second);
        assert!(futures_poll_once(&mut second).await);
        drop(first);
        tokio::time::timeout(Duration::from_millis(100), &mut second)
            .await
            .is_err()
    });
    assert!(outcome, "the second still waits for its own");
}

/// Whether the future is not ready.
async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending()))
        .await
}

#[test]
fn errors_of_the_service_pass() {
    let runtime = narrow();
    let failing = || service_fn(|()| async { Err::<(), _>(std::io::Error::other("its own")) });
    runtime.block_on(async {
        let plain = StopBlockingLayer::new().layer(failing());
        assert_eq!(plain.oneshot(()).await.unwrap_err().to_string(), "its own");
        let limited = StopBlockingLayer::new().time_limit(LIMIT).layer(failing());
        let error = limited.oneshot(()).await.unwrap_err();
        assert!(error.is::<std::io::Error>());
    });
    let _enter = runtime.enter();
    let after = spawn_blocking(|| 5);
    assert!(matches!(ended(&runtime, after), Ok::<_, JoinError>(5)));
}
