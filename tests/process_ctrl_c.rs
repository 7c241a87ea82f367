//! Ctrl-C as its user meets it: programs of their own, real signals, a terminal, and the parent's view of the end.

#![cfg(throwto_nudge)]

#[path = "it/stage.rs"]
mod stage;

use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use throwto::thread::{Builder, ThreadGroup};
use throwto::{ExcType, Interrupted, Stop, foreign, signal, thread, uninterruptible};

use stage::*;

const ROLE: &str = "THROWTO_ROLE";

/// This test once more, as the program that its signals are sent to.
struct Program {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Receiver<String>,
}

impl Program {
    fn start(test: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture"])
            .env(ROLE, test)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Whoever runs the tests may ignore signals, as a shell does for what it starts in the background or under nohup.
        let heed = || {
            for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
                // SAFETY: the default action is no function.
                unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) }?;
            }
            Ok(())
        };
        // SAFETY: one system call for each signal, between fork and exec.
        unsafe { command.pre_exec(heed) };
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let err = lines_of(child.stderr.take().unwrap());
        let mut program = Self { child, out, err };
        program.hear("ready");
        program
    }

    /// Reads what it prints up to a line that holds `word`. The pipe closes at its end, so this waits for no longer.
    #[track_caller]
    fn hear(&mut self, word: &str) {
        let heard = self.out.any(|line| line.unwrap().contains(word));
        assert!(heard, "the program ended before it said {word:?}");
    }

    /// The same on its standard error. Returns the line.
    #[track_caller]
    fn complains(&mut self, word: &str) -> String {
        let told = self.err.iter().find(|line| line.contains(word));
        told.unwrap_or_else(|| panic!("the program ended before it complained of {word:?}"))
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// A press that is no echo of the one before, whose effect the caller has seen: 20 ms are the contract.
    fn press(&self, signal: Signal) {
        std::thread::sleep(Duration::from_millis(25));
        self.send(signal);
    }

    fn end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(err: ChildStderr) -> Receiver<String> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(err).lines().map_while(Result::ok);
        lines.for_each(|line| drop(tell.send(line)));
    });
    told
}

fn plays(test: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|role| role == test)
}

fn say(what: &str) {
    println!("{what}");
    std::io::stdout().flush().unwrap();
}

/// A thread that holds every exception back.
fn deaf() -> thread::JoinHandle<()> {
    let body = || uninterruptible(|_| std::thread::sleep(FOREVER));
    let worker = Builder::new().name("deaf".into()).spawn(body).unwrap();
    until("deaf", || {
        info(worker.id()).is_some_and(|t| t.mask == throwto::MaskState::Uninterruptible)
    });
    worker
}

fn until_pending<T>(worker: &thread::JoinHandle<T>) {
    until("raised into", || info(worker.id()).is_some_and(|t| t.pending > 0));
}

#[test]
fn a_first_press_raises_and_the_program_ends_in_its_own_way() {
    let name = "a_first_press_raises_and_the_program_ends_in_its_own_way";
    if plays(name) {
        let worker = thread::spawn(|| thread::sleep(FOREVER));
        let _ctrl_c = signal::on(libc::SIGINT, &worker, ExcType::of::<Interrupted>()).unwrap();
        say("ready");
        assert!(join(worker).unwrap_err().is::<Interrupted>());
        return say("cleaned up");
    }
    let mut program = Program::start(name, |_| {});
    program.press(Signal::SIGINT);
    program.hear("cleaned up");
    assert!(program.end().success());
}

#[test]
fn a_second_press_tells_who_is_stuck_and_a_third_ends_the_process_by_its_signal() {
    let name = "a_second_press_tells_who_is_stuck_and_a_third_ends_the_process_by_its_signal";
    if plays(name) {
        let worker = deaf();
        let _ctrl_c = signal::on_termination("deaf", ExcType::of::<Interrupted>()).unwrap();
        say("ready");
        until_pending(&worker);
        say("pending");
        return join(worker);
    }
    let mut program = Program::start(name, |_| {});
    program.press(Signal::SIGINT);
    program.hear("pending");
    program.press(Signal::SIGINT);
    let told = program.complains("SIGINT again");
    assert!(
        told.contains("\"deaf\"") && told.contains("uninterruptible"),
        "{told}"
    );
    assert!(
        told.contains("1 pending") && told.contains("once more ends"),
        "{told}"
    );
    // All that end programs are counted together.
    program.press(Signal::SIGTERM);
    assert_eq!(program.end().signal(), Some(libc::SIGTERM));
}

#[test]
fn presses_that_are_caught_never_end_the_process() {
    let name = "presses_that_are_caught_never_end_the_process";
    if plays(name) {
        let prompt = thread::spawn(|| {
            for _ in 0..5 {
                thread::sleep(FOREVER).unwrap_err();
                say("caught");
            }
        });
        let _ctrl_c = signal::on(libc::SIGINT, &prompt, ExcType::of::<Interrupted>()).unwrap();
        say("ready");
        return join(prompt);
    }
    let mut program = Program::start(name, |_| {});
    for _ in 0..5 {
        program.press(Signal::SIGINT);
        program.hear("caught");
    }
    assert!(program.end().success());
}

#[test]
fn a_second_press_breaks_into_a_cleanup_that_hangs() {
    let name = "a_second_press_breaks_into_a_cleanup_that_hangs";
    if plays(name) {
        let worker = thread::spawn(|| {
            let first = thread::sleep(FOREVER).unwrap_err();
            say("cleaning up");
            thread::sleep(FOREVER).unwrap_err();
            drop(first);
        });
        let _term = signal::on_termination(&worker, ExcType::of::<Stop>()).unwrap();
        say("ready");
        return join(worker);
    }
    let mut program = Program::start(name, |_| {});
    program.press(Signal::SIGINT);
    program.hear("cleaning up");
    program.press(Signal::SIGTERM);
    assert!(program.end().success());
}

/// Unmodified std outside of every call of this crate: the first press cannot get at it.
#[cfg(throwto_ladder)]
#[test]
fn a_second_press_has_a_plain_blocking_call_fail() {
    let name = "a_second_press_has_a_plain_blocking_call_fail";
    if plays(name) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let worker = thread::spawn(move || {
            let failed = listener.accept().unwrap_err();
            (
                failed.raw_os_error(),
                throwto::safepoint().unwrap_err().is::<Stop>(),
            )
        });
        until_blocked(worker.id(), "accept4");
        let _term = signal::on_termination(&worker, ExcType::of::<Stop>()).unwrap();
        say("ready");
        until_pending(&worker);
        say("pending");
        assert_eq!(join(worker), (Some(libc::ECANCELED), true));
        return say("came free");
    }
    let mut program = Program::start(name, |_| {});
    program.press(Signal::SIGTERM);
    program.hear("pending");
    program.press(Signal::SIGTERM);
    let told = program.complains("made to fail");
    assert!(told.contains("accept4(fd "), "{told}");
    program.hear("came free");
    assert!(program.end().success());
}

/// Who holds exceptions back is told of, and left alone.
#[cfg(throwto_ladder)]
#[test]
fn a_second_press_fails_no_call_under_a_mask() {
    let name = "a_second_press_fails_no_call_under_a_mask";
    if plays(name) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let worker = thread::spawn(move || {
            let (_stream, _) = uninterruptible(|_| listener.accept()).expect("nobody has it fail");
            throwto::safepoint().unwrap_err()
        });
        until_blocked(worker.id(), "accept4");
        let _term = signal::on_termination(&worker, ExcType::of::<Stop>()).unwrap();
        say("ready");
        until_pending(&worker);
        say("pending");
        let os_tid = info(worker.id()).unwrap().os_tid;
        // What the press asks for, too: the handler refuses it.
        let refused = throwto::os::interrupt(os_tid, throwto::Rung::Fail);
        assert!(refused.is_err(), "{refused:?}");
        std::io::stdin().lines().next();
        std::net::TcpStream::connect(address).unwrap();
        assert!(join(worker).is::<Stop>());
        return say("came free");
    }
    let mut program = Program::start(name, |_| {});
    program.press(Signal::SIGTERM);
    program.hear("pending");
    program.press(Signal::SIGTERM);
    let told = program.complains("SIGTERM again");
    assert!(told.contains("accept4(fd "), "{told}");
    writeln!(program.child.stdin.as_mut().unwrap()).unwrap();
    program.hear("came free");
    assert!(program.end().success());
}

#[test]
fn presses_that_find_nobody_end_the_process_too() {
    let name = "presses_that_find_nobody_end_the_process_too";
    if plays(name) {
        let _term = signal::on(libc::SIGTERM, "nobody", ExcType::of::<Stop>()).unwrap();
        say("ready");
        std::thread::sleep(FOREVER);
    }
    let program = Program::start(name, |_| {});
    program.press(Signal::SIGTERM);
    // The first has no effect to be seen. Were the program so late that the two fell together, another is the second.
    let told = loop {
        program.press(Signal::SIGTERM);
        if let Ok(told) = program.err.recv_timeout(Duration::from_secs(10)) {
            break told;
        }
    };
    assert!(told.contains("SIGTERM again"), "{told}");
    assert!(told.contains("nobody is there"), "{told}");
    program.press(Signal::SIGTERM);
    assert_eq!(program.end().signal(), Some(libc::SIGTERM));
}

#[test]
fn signals_that_do_not_end_programs_are_not_counted() {
    let name = "signals_that_do_not_end_programs_are_not_counted";
    if plays(name) {
        let worker = deaf();
        let _usr1 = signal::on(libc::SIGUSR1, &worker, ExcType::of::<Interrupted>()).unwrap();
        let spare = thread::spawn(|| thread::sleep(FOREVER));
        let _usr2 = signal::on(libc::SIGUSR2, &spare, ExcType::of::<Interrupted>()).unwrap();
        say("ready");
        join(spare).unwrap_err();
        return say("alive");
    }
    let mut program = Program::start(name, |_| {});
    for _ in 0..5 {
        program.press(Signal::SIGUSR1);
    }
    program.press(Signal::SIGUSR2);
    program.hear("alive");
    assert!(program.end().success());
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_so() {
    let name = "a_signal_that_was_ignored_at_the_start_stays_so";
    if plays(name) {
        let worker = thread::spawn(|| thread::sleep(FOREVER));
        let _term = signal::on_termination(&worker, ExcType::of::<Stop>()).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).unwrap();
        let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
        assert_eq!(ignored >> (libc::SIGHUP - 1) & 1, 1, "as nohup left it");
        assert_eq!(ignored >> (libc::SIGTERM - 1) & 1, 0);
        say("ready");
        return drop(join(worker).unwrap_err());
    }
    let program = Program::start(name, |command| {
        let ignore = || {
            // SAFETY: between fork and exec; one system call, which allocates nothing.
            unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
            Ok(())
        };
        // SAFETY: as above.
        unsafe { command.pre_exec(ignore) };
    });
    program.press(Signal::SIGHUP);
    program.press(Signal::SIGTERM);
    assert!(program.end().success());
}

/// Makes the other end of a terminal the program's own.
fn on_terminal(command: &mut Command, terminal: &OwnedFd) {
    command.stdin(terminal.try_clone().unwrap());
    let own = || {
        // SAFETY: between fork and exec; a system call without arguments.
        unsafe { libc::setsid() };
        // SAFETY: the same; takes the terminal at standard input as the session's.
        unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
        Ok(())
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(own) };
}

#[test]
fn the_key_itself_raises() {
    let name = "the_key_itself_raises";
    if plays(name) {
        let worker = thread::spawn(|| thread::sleep(FOREVER));
        let _ctrl_c = signal::on(libc::SIGINT, &worker, ExcType::of::<Interrupted>()).unwrap();
        say("ready");
        return drop(join(worker).unwrap_err());
    }
    let pty = openpty(None, None).unwrap();
    let program = Program::start(name, |command| on_terminal(command, &pty.slave));
    File::from(pty.master.try_clone().unwrap())
        .write_all(b"\x03")
        .unwrap();
    assert!(program.end().success());
}

/// Shows signal I1.
#[test]
fn a_third_press_leaves_the_terminal_as_it_was() {
    let name = "a_third_press_leaves_the_terminal_as_it_was";
    if plays(name) {
        let worker = deaf();
        let _term = signal::on_termination(&worker, ExcType::of::<Stop>()).unwrap();
        let stdin = std::io::stdin();
        let mut raw = tcgetattr(stdin.as_fd()).unwrap();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).unwrap();
        // A lock that no end of the process may wait for.
        let _held = std::io::stderr().lock();
        say("ready");
        until_pending(&worker);
        say("pending");
        until("raised into again", || false);
    }
    let pty = openpty(None, None).unwrap();
    let before = tcgetattr(&pty.slave).unwrap();
    let mut program = Program::start(name, |command| on_terminal(command, &pty.slave));
    let raw = tcgetattr(&pty.slave).unwrap();
    assert!(before.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO));
    assert!(!raw.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO));
    program.press(Signal::SIGTERM);
    program.hear("pending");
    // Nothing can be told of the second, whose effect is not seen here: pressing goes on until the process has ended.
    while program.child.try_wait().unwrap().is_none() {
        program.press(Signal::SIGTERM);
    }
    assert_eq!(program.end().signal(), Some(libc::SIGTERM));
    assert!(
        tcgetattr(&pty.slave).unwrap() == before,
        "the terminal is not as it was"
    );
}

#[test]
fn a_dump_shows_every_thread_and_harms_none() {
    let name = "a_dump_shows_every_thread_and_harms_none";
    if plays(name) {
        let sleeper = Builder::new().name("sleeper".into());
        let sleeper = sleeper.spawn(|| thread::sleep(FOREVER)).unwrap();
        let reader = Builder::new().name("reader".into());
        let reader = reader
            .spawn(|| foreign::call(|| raw_read(&std::io::stdin())).unwrap())
            .unwrap();
        until_waiting(sleeper.id());
        until_blocked(reader.id(), "read(");
        let _dump = signal::dump_on(libc::SIGQUIT).unwrap();
        say("ready");
        assert_eq!(join(reader), Ok(1), "the read was disturbed");
        assert!(sleeper.is_alive());
        sleeper.raise(Stop).unwrap();
        join(sleeper).unwrap_err();
        return say("unharmed");
    }
    let mut program = Program::start(name, |_| {});
    for _ in 0..3 {
        program.send(Signal::SIGQUIT);
        program.complains("throwto: SIGQUIT");
        program.complains("WHERE");
        let rows = [program.err.recv().unwrap(), program.err.recv().unwrap()];
        let row = |name: &str| rows.iter().find(|row| row.contains(name)).unwrap();
        assert!(row("sleeper").contains("waiting"), "{rows:?}");
        assert!(row("reader").contains("foreign"), "{rows:?}");
        #[cfg(throwto_ladder)]
        assert!(row("reader").contains("read(fd 0, pipe)"), "{rows:?}");
    }
    program.child.stdin.take().unwrap().write_all(b"x").unwrap();
    program.hear("unharmed");
    assert!(program.end().success());
}

#[test]
fn a_press_reaches_every_thread_of_a_group_also_those_that_came_later() {
    let name = "a_press_reaches_every_thread_of_a_group_also_those_that_came_later";
    if plays(name) {
        let group = ThreadGroup::named("servers");
        let _term = signal::on_termination(&group, ExcType::of::<Stop>()).unwrap();
        let bystander = thread::spawn(|| thread::sleep(FOREVER));
        let asleep = group.spawn(|| thread::sleep(FOREVER));
        let reads = group.spawn(|| breakable_call(&std::io::stdin()));
        let parent = group.spawn(|| {
            let child = thread::spawn(thread::park);
            let child = [thread::sleep(FOREVER), uninterruptible(|_| child.join()).unwrap()];
            child
                .into_iter()
                .all(|end| end.is_err_and(|raised| raised.is::<Stop>()))
        });
        until("all four", || group.threads().len() == 4);
        until_waiting(asleep.id());
        until_blocked(reads.id(), "read(");
        say("ready");
        assert!(join(asleep).unwrap_err().is::<Stop>());
        assert!(join(reads).is_err() && join(parent));
        assert!(group.is_empty() && bystander.is_alive());
        bystander.raise(Stop).unwrap();
        join(bystander).unwrap_err();
        return say("all ended");
    }
    let mut program = Program::start(name, |_| {});
    program.press(Signal::SIGHUP);
    program.hear("all ended");
    assert!(program.end().success());
}

fn breakable_call(fd: &impl std::os::fd::AsRawFd) -> Result<usize, i32> {
    with_fail(foreign::Call::new("read"), true)
        .run(|| breakable_read(fd))
        .unwrap_or(Err(0))
}

#[test]
fn presses_add_up_while_one_thread_of_a_group_has_not_caught() {
    let name = "presses_add_up_while_one_thread_of_a_group_has_not_caught";
    if plays(name) {
        let group = ThreadGroup::new();
        let polite = Builder::new().name("polite".into()).group(&group);
        let caught = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&caught);
        let catches = move || loop {
            drop(thread::sleep(FOREVER));
            seen.store(true, std::sync::atomic::Ordering::SeqCst);
        };
        let _polite = polite.spawn(catches).unwrap();
        let deaf = Builder::new().name("deaf".into()).group(&group);
        let deaf = deaf
            .spawn(|| uninterruptible(|_| std::thread::sleep(FOREVER)))
            .unwrap();
        until("deaf", || {
            info(deaf.id()).is_some_and(|t| t.mask == throwto::MaskState::Uninterruptible)
        });
        let _term = signal::on_termination(&group, ExcType::of::<Interrupted>()).unwrap();
        say("ready");
        until_pending(&deaf);
        until("caught", || caught.load(std::sync::atomic::Ordering::SeqCst));
        say("pending");
        return join(deaf);
    }
    let mut program = Program::start(name, |_| {});
    program.press(Signal::SIGTERM);
    program.hear("pending");
    program.press(Signal::SIGTERM);
    let told = program.complains("SIGTERM again");
    assert!(
        told.contains("\"deaf\"") && !told.contains("\"polite\"") && told.contains("once more ends"),
        "{told}"
    );
    program.press(Signal::SIGTERM);
    assert_eq!(program.end().signal(), Some(libc::SIGTERM));
}

#[test]
fn presses_that_a_whole_group_catches_never_end_the_process() {
    let name = "presses_that_a_whole_group_catches_never_end_the_process";
    if plays(name) {
        let group = ThreadGroup::new();
        let _ctrl_c = signal::on(libc::SIGINT, &group, ExcType::of::<Interrupted>()).unwrap();
        let caught = std::sync::Arc::new(std::sync::Barrier::new(3));
        let workers = [(); 3].map(|()| {
            let caught = std::sync::Arc::clone(&caught);
            group.spawn(move || {
                for _ in 0..5 {
                    thread::sleep(FOREVER).unwrap_err();
                    if caught.wait().is_leader() {
                        say("caught");
                    }
                }
            })
        });
        say("ready");
        workers.into_iter().for_each(join);
        return say("all ended");
    }
    let mut program = Program::start(name, |_| {});
    for _ in 0..5 {
        program.press(Signal::SIGINT);
        program.hear("caught");
    }
    program.hear("all ended");
    assert!(program.end().success());
}

#[test]
fn a_press_reaches_a_tree_and_nobody_beside_it() {
    let name = "a_press_reaches_a_tree_and_nobody_beside_it";
    if plays(name) {
        let root = Builder::new().name("root".into()).spawn(|| {
            let child = thread::spawn(|| {
                let below = thread::spawn(|| thread::sleep(FOREVER).unwrap_err().is::<Stop>());
                let mine = thread::sleep(FOREVER).unwrap_err().is::<Stop>();
                uninterruptible(|_| below.join()).unwrap() && mine
            });
            let mine = thread::sleep(FOREVER).unwrap_err().is::<Stop>();
            uninterruptible(|_| child.join()).unwrap() && mine
        });
        let root = root.unwrap();
        let beside = thread::spawn(|| thread::sleep(FOREVER));
        until("four threads", || throwto::threads().len() == 4);
        // A name, so that the tree is found at each press.
        let _term = signal::on(libc::SIGTERM, signal::Reach::tree("root"), ExcType::of::<Stop>()).unwrap();
        say("ready");
        assert!(join(root) && beside.is_alive());
        return say("the tree has ended");
    }
    let mut program = Program::start(name, |_| {});
    program.press(Signal::SIGTERM);
    program.hear("the tree has ended");
    assert!(program.end().success());
}
