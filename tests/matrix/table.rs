//! The page that the matrix writes: `docs/cancellation-points.md`.

use std::collections::BTreeSet;
use std::fmt::Write;

use throwto::Rung;

use crate::scene::{How, Row};

/// What was measured of one row. Nothing in it depends on how fast anything was.
pub struct Measured {
    /// What the code that made the call was told.
    pub told: String,
    pub rung: Rung,
    /// What came of a raise before the call.
    pub before: String,
    /// The same as `told`, below a handler that restarts calls; `None` where any handler ends the call.
    pub restarted: Option<String>,
    pub raced: bool,
}

/// The cancellation points that POSIX.1-2017 demands (System Interfaces, 2.9.5.2).
pub const POSIX: &str = "accept aio_suspend clock_nanosleep close connect creat fcntl fdatasync fsync getmsg getpmsg lockf
    mq_receive mq_send mq_timedreceive mq_timedsend msgrcv msgsnd msync nanosleep open openat pause poll pread pselect
    pthread_cond_timedwait pthread_cond_wait pthread_join pthread_testcancel putmsg putpmsg pwrite read readv recv recvfrom
    recvmsg select sem_timedwait sem_wait send sendmsg sendto sigsuspend sigtimedwait sigwait sigwaitinfo sleep system
    tcdrain wait waitid waitpid write writev";

/// Points of POSIX without a row: what they do, and why it is so.
pub const NO_ROW: &[(&str, &str, &str)] = &[
    (
        "pthread_testcancel",
        "`safepoint`, `pending`",
        "it does not block",
    ),
    (
        "close",
        "never touched",
        "whatever its result, the descriptor is gone: nobody may be led to close it again",
    ),
    (
        "fsync, fdatasync, msync",
        "never touched",
        "work, not a wait: their error means that data was lost, and programs stop for it",
    ),
    (
        "pread, pwrite",
        "fail",
        "on the table, but what has a position and blocks is a disk, and that wait is uninterruptible",
    ),
    (
        "aio_suspend",
        "nudge (EINTR)",
        "in glibc a futex, whose result is never replaced",
    ),
    (
        "sigwait",
        "hook",
        "it waits on after every signal but those it asks for: send it one of those, in an unblock hook",
    ),
    (
        "system",
        "fail",
        "a `waitpid` inside: broken, it returns -1 and leaves the child to itself; use `process::wait`",
    ),
    (
        "tcdrain",
        "fail",
        "on the table as `ioctl`; no terminal here is slow enough to wait for",
    ),
    (
        "getmsg, getpmsg, putmsg, putpmsg",
        "-",
        "STREAMS, which Linux does not have",
    ),
];

/// Calls of the fail rung's table that are in no row.
pub const UNMEASURED: &[(&str, &str)] = &[
    (
        "pread64, preadv, pwrite64, pwritev",
        "nothing that has a position waits interruptibly here",
    ),
    (
        "copy_file_range",
        "between files, which are never waited for interruptibly",
    ),
    (
        "open_by_handle_at",
        "wants a privilege that tests should not have",
    ),
    ("getrandom", "waits only before the system's pool is seeded"),
    (
        "ioctl",
        "of its requests `tcdrain` alone, and no terminal here is slow enough",
    ),
];

/// The numbers' names in the arms of the table that say `Fail` or `Zero`, as the source has them.
pub fn fail_table(source: &str) -> BTreeSet<String> {
    let start = source.find("pub(crate) const fn substitute(").expect("the table");
    let end = source
        .find("/// libc gives this number")
        .expect("what comes after it");
    let by_arguments = ["fcntl".to_owned(), "ioctl".to_owned()];
    let mut known: BTreeSet<String> = by_arguments.into();
    let mut arm = Vec::new();
    let code = source[start..end]
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join(" ");
    for word in code.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
        match word {
            "Fail" | "Zero" => known.extend(arm.drain(..)),
            "Never" => arm.clear(),
            _ => arm.extend(word.strip_prefix("SYS_").map(str::to_owned)),
        }
    }
    known
}

pub fn page(ours: &[(&Row, Measured)], theirs: &[(&Row, Measured)]) -> String {
    let mut page = String::from(HEAD);
    for (row, seen) in ours {
        let point = row
            .posix
            .map_or("-".into(), |names| format!("`{}`", names.replace(", ", "`, `")));
        let place = row.place;
        let (call, rung, leaves) = (row.call, seen.rung, row.leaves);
        let restarted = seen.restarted.as_deref().unwrap_or("-");
        let _ = writeln!(
            page,
            "| {point} | `{call}` | {place} | {}, {rung} | {} | {restarted} | {leaves} |",
            seen.told, seen.before
        );
    }
    page.push_str(FOREIGN);
    for (row, seen) in theirs {
        let call = format!("`{}`", row.call.replace(", ", "`, `"));
        let place = row.place;
        let (rung, leaves) = (seen.rung, row.leaves);
        let restarted = seen.restarted.as_deref().unwrap_or("ended by any handler");
        let code = if row.how == How::Stubborn {
            "retries"
        } else {
            "once"
        };
        let race = if seen.raced { leaves } else { "-" };
        let _ = writeln!(
            page,
            "| {call} | {place} | {code} | {}, {rung} | {} | {restarted} | {race} |",
            seen.told, seen.before
        );
    }
    page.push_str(POINTS);
    for (names, what, why) in NO_ROW {
        let _ = writeln!(page, "| `{}` | {what} | {why} |", names.replace(", ", "`, `"));
    }
    page.push_str(CALLS);
    for (names, why) in UNMEASURED {
        let _ = writeln!(page, "| `{}` | {why} |", names.replace(", ", "`, `"));
    }
    page
}

/// Fails if the page in the tree says anything else.
#[track_caller]
pub fn compare(page: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cancellation-points.md");
    if std::env::var_os("THROWTO_BLESS").is_some() {
        std::fs::write(path, page).unwrap();
        return;
    }
    let told = std::fs::read_to_string(path).unwrap_or_default();
    let differs = |(told, measured): &(&str, &str)| told != measured;
    if let Some((told, measured)) = told.lines().zip(page.lines()).find(differs) {
        panic!("{path} says\n{told}\nand measured was\n{measured}\nTHROWTO_BLESS=1 writes it anew");
    }
    assert_eq!(
        told.lines().count(),
        page.lines().count(),
        "{path}: THROWTO_BLESS=1 writes it anew"
    );
}

const HEAD: &str = "# Cancellation points

Written by `tests/process_matrix.rs`, which CI runs and which fails when this page differs from what it measures
(`THROWTO_BLESS=1 cargo test --test process_matrix` writes it anew). Linux x86-64.

Every call is tried in four situations. *Blocked*: the thread is seen in the system call, then raised into. *Raised
before*: the exception is pending when the call is made. *Restarted*: a handler of another signal, installed with
`SA_RESTART`, runs twice on top of the blocked call, and then on and on while the raise works. *Race*: the call completes while it is
raised into, in 10 to 150 rounds (`THROWTO_ROUNDS` for more): either it returns its result and the exception comes at the next
cancellation point, or it is broken, and the last column says what it leaves; never both, never neither. That column
is an assertion, checked after each round of every situation. After each row the process has as many descriptors and threads as
before, and no child that was not waited for.

## Calls of this crate

\"Raised\" means an error that holds the exception, with the rung that woke the thread; before the call nothing had to.

| of POSIX | call | waits in | blocked | raised before | restarted | broken, it leaves |
| --- | --- | --- | --- | --- | --- | --- |
";

const FOREIGN: &str = "
## Calls of others, in a region with `fail_syscalls`

Made by the C library or as bare system calls. Code that *retries* asks again for as long as the answer is EINTR, as std does;
told is what ends that. Code that asks *once* takes the first answer. The exception comes when the region ends. A call that says 0
has slept, or has found nothing ready; `poll` and `ppoll` answer `ECANCELED` to code that takes 0 for a spurious return and asks again.

| call | waits in | code | blocked | raised before | restarted | broken, it leaves |
| --- | --- | --- | --- | --- | --- | --- |
";

const POINTS: &str = "
## Points of POSIX without a row

| point | rung | why |
| --- | --- | --- |
";

const CALLS: &str = "
## On the fail rung's table, and not measured

| call | why |
| --- | --- |
";
