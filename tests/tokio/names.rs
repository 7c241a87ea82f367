//! The names that users of tokio and tower expect, with the types that they expect. As tests/it/names.rs does for the rest.

use std::future::Future;
use std::time::Duration;

use throwto::tokio::{AbortHandle, JoinError, JoinHandle, TaskGroup, spawn_blocking, with_token};
use throwto::tower::{StopBlockingLayer, TimeLimitLayer};
use throwto::{Cancelled, Raised, Receipt, Stop, thread};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::narrow;
use crate::stage::*;

#[test]
fn the_names_of_blocking_tasks() {
    fn future<T: Future<Output = Result<u8, JoinError>> + Unpin + Send>(_: &T) {}
    let _: fn(&JoinHandle<u8>) = JoinHandle::abort;
    let _: fn(&JoinHandle<u8>) -> AbortHandle = JoinHandle::abort_handle;
    let _: fn(JoinHandle<u8>) -> JoinHandle<u8> = JoinHandle::abort_on_drop;
    let _: fn(&JoinHandle<u8>) -> bool = JoinHandle::is_finished;
    let _: fn(Runtime, Duration) -> Vec<throwto::tokio::Survivor> = throwto::tokio::shutdown;
    let runtime = narrow();
    runtime.block_on(async {
        let answer: JoinHandle<u8> = spawn_blocking(|| 42);
        future(&answer);
        assert_eq!(answer.await.unwrap(), 42);
        let stuck: JoinHandle<Result<(), Raised>> = spawn_blocking(thread::park);
        stuck.abort();
        let error: JoinError = stuck.await.unwrap_err();
        assert!(error.is_cancelled());
        let raised: JoinHandle<Result<(), Raised>> = spawn_blocking(thread::park);
        while raised.abort_handle().thread().is_none() {
            tokio::task::yield_now().await;
        }
        let _receipt: Receipt = raised.raise(Stop).unwrap();
        assert!(raised.await.unwrap().unwrap_err().is::<Stop>());
    });
    let token = CancellationToken::new();
    let bridged: Result<u8, Cancelled> = with_token(&token, |_| 1);
    assert_eq!(bridged, Ok(1));
    assert!(TaskGroup::new().is_empty());
    assert!(throwto::tokio::shutdown(runtime, LIMIT).is_empty());
}

#[test]
fn the_names_of_layers() {
    fn layer<L: Layer<S>, S>(layer: L, inner: S) -> L::Service {
        layer.layer(inner)
    }
    let limited: TimeLimitLayer = StopBlockingLayer::new().time_limit(LIMIT);
    let echo = service_fn(|request: u8| async move { Ok::<u8, std::io::Error>(request) });
    let mut service = layer(limited, layer(StopBlockingLayer::new(), echo));
    let answer = narrow().block_on(async { service.ready().await?.call(7).await });
    assert_eq!(answer.unwrap(), 7);
}
