//! The public names of the contract (DESIGN section 4), in its order, each with the types that it states.
//!
//! A closure that is coerced to a function pointer states a signature; that it compiles is the test. What a name does is tested
//! elsewhere; here each is used once, the way a reader of the contract would type it.

// The signatures are the subject.
#![allow(clippy::type_complexity)]

use std::collections::HashSet;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::panic::Location;
use std::time::Duration;

use throwto::foreign::{self, Call, CallError};
use throwto::os::{self, OsTid};
use throwto::thread::{Builder, JoinError, JoinHandle, StoppableThread, ThreadGroup};
use throwto::{
    AttachError, Attachment, Cancelled, Dead, ExcType, Exception, Interrupted, IntoException, RaiseError,
    Raised, Receipt, ReceiptState, Retry, Rung, StillAlive, Stop, Target, ThreadId, ThreadInfo, TimedOut,
};
use throwto::{
    Raise, attach, bracket, catch, catch_only, mask, pending, raise_all, raise_exc, raise_until_dead,
    safepoint, safepoint_unwind, set_async_exc, shield, sync, thread, threads, time, uninterruptible,
};

use crate::stage::*;

/// Compiles only for types that are not `Send`: for others the parameter cannot be inferred.
trait NotSend<Ambiguous> {
    fn holds() {}
}
impl<T: ?Sized> NotSend<()> for T {}
impl<T: ?Sized + Send> NotSend<u8> for T {}

fn identity<T: Copy + Eq + Hash + Display + Debug + Send + Sync + 'static>() {}
fn shared<T: Send + Sync + 'static>() {}
fn error<T: Error + Send + Sync + 'static>() {}
fn built_in<T: Exception + Default + Clone>() -> ExcType {
    ExcType::of::<T>()
}

#[test]
fn the_names_of_identity() {
    identity::<ThreadId>();
    let _: fn() -> Option<ThreadId> = ThreadId::current;
    let _: fn() -> Result<Attachment, AttachError> = attach;
    <Attachment as NotSend<_>>::holds();
    error::<AttachError>();
    let attachment: Attachment = attach().unwrap();
    let nested = attach().unwrap();
    let me: ThreadId = attachment.id();
    assert_eq!((nested.id(), ThreadId::current()), (me, Some(me)));
    assert!(HashSet::from([me]).contains(&me) && !me.to_string().is_empty());
    let handle: JoinHandle<&str> = thread::spawn(|| "result");
    let targets: [Target; 4] = [
        Target::from(me),
        Target::from(&handle),
        Target::from(OsTid::current()),
        Target::from("the name"),
    ];
    assert!(matches!(&targets[1], Target::Id(id) if *id == handle.id()));
    assert_eq!(join(handle), "result");
}

#[test]
fn the_names_of_raising() {
    let _: fn(Target, Option<ExcType>) -> usize = |target, exc| set_async_exc(target, exc);
    let _: fn(ThreadId, ExcType) -> Result<Receipt, RaiseError> = |target, exc| raise_exc(target, exc);
    let _: fn(&str, Stop) -> Result<Receipt, RaiseError> = |target, exc| raise_exc(target, exc);
    let _: fn(OsTid, ExcType) -> Vec<Receipt> = |target, exc| raise_all(target, exc);
    let _: fn(ThreadId, ExcType, Retry) -> Result<Dead, StillAlive> =
        |target, exc, retry| raise_until_dead(target, exc, retry);
    let _: fn(&Receipt) -> ReceiptState = Receipt::state;
    let _: fn(&Receipt, Duration) -> ReceiptState = Receipt::wait;
    let _: fn(&Receipt) -> bool = Receipt::revoke;
    shared::<Receipt>();
    error::<RaiseError>();
    error::<StillAlive>();
    fn takes<E: IntoException>(exc: E) -> Raise<E> {
        Raise::new(exc).queue()
    }
    let attachment = attach().unwrap();
    let me = attachment.id();
    for receipt in [takes(Stop).to(me), takes(ExcType::of::<Stop>()).to(me)] {
        let receipt: Receipt = receipt.unwrap();
        assert!(receipt.revoke());
        // All of them, and no more.
        match receipt.state() {
            ReceiptState::Revoked => {}
            ReceiptState::Pending | ReceiptState::Delivered | ReceiptState::Caught => {
                panic!("it was revoked")
            }
            ReceiptState::Superseded | ReceiptState::TargetEnded => panic!("it was revoked"),
        }
    }
    let all = [
        built_in::<Stop>(),
        built_in::<Interrupted>(),
        built_in::<TimedOut>(),
        built_in::<Cancelled>(),
    ];
    assert_eq!(HashSet::from(all).len(), 4);
    assert!(matches!(
        raise_exc("nobody has this name", Stop),
        Err(RaiseError::NoSuchThread { .. })
    ));
    assert_eq!(set_async_exc("nobody has this name", None), 0);
    assert!(raise_all("nobody has this name", all[0]).is_empty());
    let worker = thread::spawn(thread::park);
    let (every, give_up_after) = (Duration::from_millis(5), LIMIT);
    let dead: Dead = raise_until_dead(&worker, all[0], Retry { every, give_up_after }).unwrap();
    assert!(dead.raises >= 1);
    assert!(join(worker).unwrap_err().is::<Stop>());
}

#[test]
fn the_names_of_delivery() {
    let _: fn() -> Result<(), Raised> = safepoint;
    let _: fn() = safepoint_unwind;
    let _: fn() -> bool = pending;
    let _: fn(fn() -> u8) -> Result<u8, Raised> = |f| catch(f);
    let _: fn(fn() -> u8) -> Result<u8, Raised> = |f| catch_only::<Stop, _>(f);
    let _: fn(&Raised) -> bool = Raised::is::<Stop>;
    let _: fn(&Raised) -> Option<&Stop> = Raised::downcast_ref::<Stop>;
    let _: fn(Raised) -> Result<Stop, Raised> = Raised::downcast::<Stop>;
    let _: fn(&Raised) -> Option<ThreadId> = Raised::raised_by;
    let _: fn(&Raised) -> &'static Location<'static> = Raised::raised_at;
    let _: fn(&Raised) -> Rung = Raised::rung;
    error::<Raised>();
    let attachment = attach().unwrap();
    let raise = || {
        raise_exc(attachment.id(), Stop).unwrap();
    };
    fn result_style() -> Result<(), Raised> {
        safepoint()?;
        Ok(())
    }
    raise();
    assert!(pending());
    let raised = result_style().unwrap_err();
    assert!(raised.is::<Stop>() && raised.downcast_ref::<Stop>() == Some(&Stop));
    assert_eq!(raised.raised_by(), Some(attachment.id()));
    assert_eq!(
        (raised.raised_at().file(), raised.rung()),
        (file!(), Rung::Safepoint)
    );
    let other = raised.downcast::<Interrupted>().unwrap_err();
    assert_eq!(other.downcast::<Stop>().unwrap(), Stop);
    raise();
    assert!(catch(safepoint_unwind).unwrap_err().is::<Stop>());
    raise();
    assert!(catch_only::<Stop, _>(safepoint_unwind).is_err());
    raise();
    let io = std::io::Error::from(safepoint().unwrap_err());
    assert_eq!(io.kind(), std::io::ErrorKind::Other);
    assert!(Raised::from_io(io).unwrap().is::<Stop>());
}

#[test]
fn the_names_of_masks() {
    let attachment = attach().unwrap();
    let masked: u8 = mask(|m| {
        raise_exc(attachment.id(), Stop).unwrap();
        assert!(safepoint().is_ok());
        let restored: Result<(), Raised> = m.restore(safepoint);
        assert!(restored.is_err());
        1
    });
    let held: u8 = uninterruptible(|m| m.restore(|| 2));
    let shielded: u8 = shield(Duration::from_secs(1), || 3);
    let mut released = None;
    let length: usize = bracket(
        || String::from("resource"),
        |resource| resource.len(),
        |resource| released = Some(resource),
    );
    assert_eq!((masked, held, shielded, length), (1, 2, 3, 8));
    assert_eq!(released.as_deref(), Some("resource"));
}

#[test]
fn the_names_of_foreign_calls() {
    let _: fn(fn() -> u8) -> Result<u8, Raised> = |f| foreign::call(f);
    let attachment = attach().unwrap();
    let mut hooked = 0;
    let call = Call::new("sqlite3_step")
        .unblock(|| hooked += 1)
        .fail_syscalls()
        .unwind_after(Duration::from_millis(50))
        .abandon_after(Duration::from_millis(100));
    // What a system cannot do it says; where it can, these are the types of the answers.
    let run: Result<u8, Raised> = call.run(|| 1);
    let tried: Result<u8, CallError<RaiseError>> = call.try_run(|| Ok(2));
    if Call::supports(Rung::Fail) {
        assert_eq!((run.unwrap(), tried.unwrap()), (1, 2));
    }
    // SAFETY: the closure owns nothing and calls nothing.
    let forced: Result<u8, CallError<Infallible>> = unsafe { call.run_forced(|| 3) };
    assert!(matches!(
        forced,
        Ok(3) | Err(CallError::NoModule { .. } | CallError::Unsupported { .. })
    ));
    assert_eq!(foreign::no_abandon(|| 4), 4);
    raise_exc(attachment.id(), Stop).unwrap();
    assert!(
        foreign::call(|| 5).unwrap_err().is::<Stop>(),
        "raised before entry"
    );
}

#[test]
fn the_names_of_threads_and_of_what_they_do() {
    let _: fn(Duration) -> Result<(), Raised> = thread::sleep;
    let _: fn() -> Result<(), Raised> = thread::park;
    let _: fn(Duration) -> Result<(), Raised> = thread::park_timeout;
    let worker: JoinHandle<Result<(), Raised>> = Builder::new()
        .name("of names.rs".into())
        .stack_size(1 << 20)
        .spawn(|| thread::sleep(FOREVER))
        .unwrap();
    until_waiting(worker.id());
    let shown: Vec<ThreadInfo> = threads();
    let seen = shown.iter().find(|seen| seen.id == worker.id()).unwrap();
    let (name, os_tid, region): (Option<&str>, OsTid, Option<&str>) =
        (seen.name.as_deref(), seen.os_tid, seen.region);
    assert_eq!((name, region, seen.pending), (Some("of names.rs"), None, 0));
    assert!(os_tid != OsTid::current() && !seen.where_blocked.is_empty());
    assert_eq!(seen.state, throwto::ThreadState::Waiting);
    assert!(worker.is_alive());
    let receipt: Receipt = worker.raise(Stop).unwrap();
    assert_eq!(receipt.target(), worker.id());
    let ended: Result<Result<(), Raised>, JoinError<_>> = worker.join();
    assert!(ended.unwrap().unwrap_err().is::<Stop>());

    let stoppable: StoppableThread<bool> = StoppableThread::spawn(|| {
        while !thread::stopped() {
            thread::yield_now();
        }
        safepoint().is_err()
    });
    stoppable.stop();
    assert!(stoppable.stopped() && stoppable.join().unwrap());

    let group = ThreadGroup::new();
    let member: JoinHandle<Result<(), Raised>> = group.spawn(thread::park);
    assert!(group.shutdown(LIMIT, ExcType::of::<Stop>()).is_empty());
    assert!(join(member).is_err());
    let lent = [1, 2, 3];
    let sum: i32 = thread::scope(|s| s.spawn(|| lent.iter().sum()).join().unwrap());
    assert_eq!(sum, 6);
    let tree = thread::spawn(|| thread::spawn(thread::park).join().is_ok());
    let receipts: Vec<Receipt> = Raise::new(Stop).tree().to(&tree).unwrap();
    assert!(!receipts.is_empty());
    join(tree);
}

/// What is spelled as in std, by those who do not look further.
#[test]
fn std_s_ways_to_unpark_end_our_park() {
    let ways: [fn(&JoinHandle<Result<(), Raised>>); 3] = [
        |worker| worker.thread().unpark(),
        |worker| worker.thread().clone().unpark(),
        |worker| worker.unpark(),
    ];
    for unpark in ways {
        let worker = thread::spawn(thread::park);
        until_waiting(worker.id());
        unpark(&worker);
        join(worker).unwrap();
    }
    let attachment = attach().unwrap();
    assert_eq!(thread::current().id(), Some(attachment.id()));
    assert_eq!(thread::current().name(), std::thread::current().name());
    thread::current().unpark();
    thread::park().unwrap();
    drop(attachment);
    // Not attached, it is std's park.
    assert_eq!(thread::current().id(), None);
    thread::current().unpark();
    thread::park().unwrap();
}

#[test]
fn the_names_of_sync_and_time() {
    let attachment = attach().unwrap();
    fn lock(mutex: &sync::Mutex<u8>, changed: &sync::Condvar) -> Result<u8, Raised> {
        let mut guard: sync::MutexGuard<'_, u8> = mutex.lock()?;
        while *guard == 0 {
            guard = changed.wait(guard)?;
        }
        Ok(*guard)
    }
    let (mutex, changed) = (sync::Mutex::new(1), sync::Condvar::new());
    assert_eq!(lock(&mutex, &changed).unwrap(), 1);
    changed.notify_one();
    let (sender, receiver) = sync::channel::<u8>();
    sender.send(1).unwrap();
    let received: Result<u8, Raised> = (|| Ok(receiver.recv()?))();
    assert_eq!(received.unwrap(), 1);
    assert!(receiver.recv_timeout(Duration::ZERO).is_err());
    raise_exc(attachment.id(), Stop).unwrap();
    assert!(matches!(receiver.recv(), Err(sync::RecvError::Raised(raised)) if raised.is::<Stop>()));
    *mutex.lock().unwrap() = 0;
    raise_exc(attachment.id(), Stop).unwrap();
    assert!(lock(&mutex, &changed).unwrap_err().is::<Stop>());

    let limited: Result<u8, TimedOut> = time::timeout(FOREVER, || 1);
    assert_eq!(limited, Ok(1));
    let late: Result<Result<(), Raised>, TimedOut> =
        time::timeout(Duration::from_millis(1), || thread::sleep(FOREVER));
    assert_eq!(late.unwrap_err(), TimedOut);
    let deadline: time::Deadline = time::Deadline::after(FOREVER);
    let inside: Result<bool, TimedOut> = deadline.run(|limit| limit.has_passed());
    assert_eq!(inside, Ok(false));
}

#[test]
fn the_names_of_pools() {
    use throwto::pool::{self, Job, JobError, JobHandle, JobPool, Stuck};
    let pool: JobPool = JobPool::new(2).unwrap();
    let job: JobHandle<u8> = pool.submit(|| 1).unwrap();
    let done: Result<u8, JobError<u8>> = job.wait();
    assert_eq!(done.unwrap(), 1);
    let left: Vec<Stuck> = pool.shutdown(LIMIT);
    assert!(left.is_empty());
    let (task, handle) = Job::new().limit(Duration::from_millis(1)).prepare(thread::park);
    std::thread::spawn(task);
    assert!(matches!(handle.wait(), Err(JobError::TimedOut)));
    let here: Result<u8, JobError<u8>> = pool::job(LIMIT, || 2);
    assert_eq!(here.unwrap(), 2);
}

#[test]
fn the_names_of_threads_that_never_attached() {
    let _: fn(OsTid, Rung) -> Result<(), RaiseError> = os::interrupt;
    let rungs = [Rung::Nudge, Rung::Fail, Rung::Hook, Rung::Unwind, Rung::Abandon];
    assert!(rungs.is_sorted(), "the ladder has an order, and each rung a name");
    assert!(os::interrupt(OsTid::from_raw(0), Rung::Nudge).is_err());
}

#[cfg(throwto_nudge)]
#[test]
fn the_names_of_signals() {
    use throwto::signal::{self, SIGINT, Subscription};
    let _: fn(i32, Target, ExcType) -> std::io::Result<Subscription> = |s, t, e| signal::on(s, t, e);
    let _: fn(i32, &ThreadGroup, ExcType) -> std::io::Result<Subscription> = |s, g, e| signal::on(s, g, e);
    assert_eq!(SIGINT, nix::libc::SIGINT);
}

#[cfg(throwto_ladder)]
#[test]
fn the_names_of_io_processes_and_files() {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::process::{Child, ExitStatus};
    use throwto::io::{self, Interruptible, PollFd};
    use throwto::{fs, process};
    fn reads_and_writes<T: Read + Write>() {}
    reads_and_writes::<Interruptible<TcpStream>>();
    let _: fn(&mut Child) -> std::io::Result<ExitStatus> = process::wait;
    let _: fn(&File) -> std::io::Result<fs::LockGuard<'_>> = fs::lock;
    let _: fn(&mut [PollFd<'_>], Option<Duration>) -> std::io::Result<usize> = io::poll;

    let listener = Interruptible::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let address: SocketAddr = listener.get_ref().local_addr().unwrap();
    assert!(!listener.wait_readable(Some(Duration::ZERO)).unwrap());
    let mut client: Interruptible<TcpStream> = Interruptible::connect(address).unwrap();
    assert!(client.wait_writable(None).unwrap());
    let (server, _): (TcpStream, SocketAddr) = listener.accept().unwrap();
    client.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    Interruptible::new(server).read_exact(&mut bytes).unwrap();
    let timed: Interruptible<TcpStream> = Interruptible::connect_timeout(&address, LIMIT).unwrap();
    drop(timed);

    let receiver = Interruptible::new(UdpSocket::bind("127.0.0.1:0").unwrap());
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender
        .send_to(b"!", receiver.get_ref().local_addr().unwrap())
        .unwrap();
    assert_eq!(
        receiver.recv_from(&mut bytes).unwrap(),
        (1, sender.local_addr().unwrap())
    );
    assert_eq!(&bytes, b"!ello");
}
