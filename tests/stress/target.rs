//! Who is raised into: does everything that blocks, one short step after the other, and keeps account of what it did.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use throwto::foreign::{self, Call, CallError, DetachedError};
use throwto::scope::Scope;
use throwto::sync::SendError;
use throwto::thread::JoinError;
use throwto::time::timeout;
use throwto::{Raised, Rung, attach, catch, fs, mask, process, shield, thread, uninterruptible};

use crate::books::Books;
use crate::raiser::settle;
use crate::stage::*;
use crate::watchdog::Beat;

const KINDS: u64 = 31;

/// One target: its account, its luck, and the name of its forced calls.
struct Target<'a> {
    books: &'a Books,
    dice: Dice,
    beat: &'a Beat,
    label: &'static str,
}

type Met = Result<(), Raised>;

pub fn work(books: &Books, label: &'static str, seed: u64, beat: &Beat) {
    let mut target = Target {
        books,
        dice: Dice::new(seed),
        beat,
        label,
    };
    while !books.over() {
        let attachment = attach().unwrap();
        let id = attachment.id();
        books.live.lock().unwrap().push(id);
        for _ in 0..target.dice.roll(200) {
            if books.over() {
                break;
            }
            target.step(0);
        }
        books.live.lock().unwrap().retain(|live| *live != id);
        // What comes from here on finds it ended.
        drop(attachment);
    }
}

/// Once, before anybody is stuck in it.
pub fn open_library() {
    #[cfg(throwto_forced)]
    throwto_fixtures::stuck::Library::open().unwrap();
}

fn micros(time: u64) -> Duration {
    Duration::from_micros(time)
}

impl Target<'_> {
    /// One step, whose exceptions are met before it is over.
    fn step(&mut self, depth: u32) {
        let kind = self.dice.roll(KINDS);
        self.beat.step(kind);
        let met = match kind {
            0 => throwto::safepoint(),
            1 => catch(throwto::safepoint_unwind),
            2 => thread::sleep(micros(self.dice.roll(300))),
            3..=5 => self.foreign_poll(kind),
            6..=8 => self.masked(kind),
            9 | 10 if depth < 3 => self.scoped(depth),
            11 | 12 if depth < 3 => self.limited(depth),
            13 | 14 => self.read(),
            15 | 16 => self.write(),
            17 => self.stubborn_read(),
            18 | 19 => self.value_in(),
            20 | 21 => self.value_out(),
            22 => self.enter(),
            23 => self.wait_for_a_change(),
            24 => self.lock_file(),
            25 => self.detached(),
            26 if self.dice.roll(10) == 0 => self.child_process(),
            27 if self.dice.roll(4) == 0 => self.child_thread(),
            28 if self.dice.roll(4) == 0 => self.children_in_scope(),
            29 if !crate::sanitized() => self.abandoned(),
            30 if !crate::sanitized() => self.unwound(),
            _ => Ok(()),
        };
        settle(self.books, met);
    }

    fn foreign_poll(&mut self, kind: u64) -> Met {
        let fd = self.books.file.as_raw_fd();
        match kind {
            3 => foreign::call(|| wait(fd)).map(drop),
            // A hook has no work where the nudge has ended the poll: stubborn code is for hooks.
            4 => {
                let (reader, writer) = std::io::pipe().unwrap();
                let mut writer = Some(writer);
                let call = Call::new("hooked").unblock(|| drop(writer.take()));
                call.run(|| stubborn_wait(reader.as_raw_fd(), 5)).map(drop)
            }
            _ => Call::new("failing")
                .fail_syscalls()
                .run(|| stubborn_wait(-1, 5))
                .map(drop),
        }
    }

    fn masked(&mut self, kind: u64) -> Met {
        let luck = self.dice.roll(300);
        match kind {
            6 => mask(|m| {
                assert!(throwto::safepoint().is_ok());
                match luck % 3 {
                    0 => m.restore(throwto::safepoint),
                    1 => thread::park_timeout(micros(50)),
                    _ => Ok(()),
                }
            }),
            7 => {
                uninterruptible(|_| {
                    assert!(throwto::safepoint().is_ok());
                    assert!(thread::sleep(micros(20)).is_ok());
                    assert!(foreign::call(|| wait(-1)).is_ok());
                });
                Ok(())
            }
            _ => shield(micros(luck), || {
                mask(|_| assert!(throwto::safepoint().is_ok()));
                thread::sleep(micros(100))
            }),
        }
    }

    fn scoped(&mut self, depth: u32) -> Met {
        let books = self.books;
        let (scope, handle) = Scope::new();
        let number = self.dice.roll(u64::MAX);
        books.scopes.lock().unwrap().push((number, handle));
        let ended = scope.run(|| self.steps_within(depth));
        books.scopes.lock().unwrap().retain(|(open, _)| *open != number);
        if ended.is_err() {
            books.note("scope cancelled");
        }
        Ok(())
    }

    fn limited(&mut self, depth: u32) -> Met {
        let limit = micros(self.dice.roll(1500));
        if timeout(limit, || self.steps_within(depth)).is_err() {
            self.books.note("limit passed");
        }
        Ok(())
    }

    /// The body of a scope. What is met at its very end comes out, and may be the scope's own.
    fn steps_within(&mut self, depth: u32) -> Met {
        for _ in 0..self.dice.roll(4) {
            self.step(depth + 1);
        }
        throwto::safepoint().inspect_err(|raised| self.books.meet(raised))
    }

    fn read(&mut self) -> Met {
        let read = (&self.books.reader).read(&mut [0; 8]);
        self.moved(read, &self.books.bytes_out)
    }

    fn write(&mut self) -> Met {
        let size = 1 + self.dice.roll(600) as usize;
        let written = (&self.books.writer).write(&[0; 600][..size]);
        self.moved(written, &self.books.bytes_in)
    }

    fn moved(&self, moved: std::io::Result<usize>, account: &std::sync::atomic::AtomicU64) -> Met {
        match moved {
            Ok(count) => {
                account.fetch_add(count as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(Raised::from_io(error).expect("nothing else goes wrong here")),
        }
    }

    fn stubborn_read(&mut self) -> Met {
        let pipe = self.books.reader.get_ref();
        match Call::new("read")
            .fail_syscalls()
            .try_run(|| stubborn_read(pipe).0)
        {
            Ok(count) => self.moved(Ok(count), &self.books.bytes_out),
            Err(CallError::Raised(raised)) => Err(raised),
            // Its exception was taken back meanwhile.
            Err(CallError::Failed(errno)) if errno == libc::ECANCELED => Ok(()),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn value_in(&mut self) -> Met {
        match self.books.sender.send(1) {
            Ok(()) => {
                self.books.values_in.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(SendError::Raised(raised, _)) => Err(raised),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn value_out(&mut self) -> Met {
        let receiver = self.books.receiver.lock()?;
        match receiver.recv_timeout(micros(500)) {
            Ok(_) => {
                self.books.values_out.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(throwto::sync::RecvTimeoutError::Raised(raised)) => Err(raised),
            Err(_) => Ok(()),
        }
    }

    fn enter(&mut self) -> Met {
        let mut entered = self.books.entered.lock()?;
        *entered += 1;
        self.books.entries.fetch_add(1, Ordering::Relaxed);
        if self.dice.roll(4) == 0 {
            self.books.changed.notify_all();
        }
        Ok(())
    }

    fn wait_for_a_change(&mut self) -> Met {
        let entered = self.books.entered.lock()?;
        self.books.changed.wait_timeout(entered, micros(500)).map(drop)
    }

    fn lock_file(&mut self) -> Met {
        let file = std::fs::File::open(&self.books.path).unwrap();
        match fs::lock(&file) {
            Ok(guard) => {
                let another = std::fs::File::open(&self.books.path).unwrap();
                assert!(another.try_lock().is_err(), "a guard without a lock");
                drop(guard);
                Ok(())
            }
            Err(error) => Err(Raised::from_io(error).expect("nothing else goes wrong here")),
        }
    }

    fn detached(&mut self) -> Met {
        match foreign::detached(|| wait(-1)) {
            Ok(_) => Ok(()),
            Err(DetachedError::Raised { raised, left_behind }) => {
                if left_behind.is_some() {
                    self.books.note("left behind");
                }
                Err(raised)
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn child_process(&mut self) -> Met {
        let mut child = Command::new("true").spawn().unwrap();
        let waited = process::wait(&mut child);
        // In a cancelled scope it would be raised into for ever: clean-up is shielded.
        let status = uninterruptible(|_| process::wait(&mut child)).unwrap();
        assert!(status.success());
        self.books.note("children reaped");
        match waited {
            Ok(_) => Ok(()),
            Err(error) => Err(Raised::from_io(error).expect("nothing else goes wrong here")),
        }
    }

    /// A child of the tree, in the group: raised into with its parent, and joined come what may.
    fn child_thread(&mut self) -> Met {
        let luck = self.dice.roll(1 << 20);
        let ledgerless = move || {
            let mut met = 0;
            for time in 0..luck % 5 {
                met += u32::from(thread::sleep(micros(100 * time)).is_err());
            }
            met
        };
        let builder = thread::Builder::new().group(&self.books.group);
        let mut handle = builder.spawn(ledgerless).unwrap();
        self.books.note("threads");
        let mut first = Ok(());
        loop {
            let joined = if first.is_ok() {
                handle.join()
            } else {
                uninterruptible(|_| handle.join())
            };
            match joined {
                Ok(_) => return first,
                Err(JoinError::Interrupted(raised, again)) => (first, handle) = (Err(raised), again),
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    fn children_in_scope(&mut self) -> Met {
        let luck = self.dice.roll(400);
        let books = self.books;
        thread::scope(|s| -> Met {
            for i in 0..2 {
                s.spawn(move || drop(thread::sleep(micros(luck * i))));
                books.note("threads");
            }
            thread::sleep(micros(luck))
        })
    }

    /// Left in the middle of a loop, unless nobody raises before it is let go.
    #[cfg(throwto_forced)]
    fn abandoned(&mut self) -> Met {
        use throwto_fixtures::stuck::{Library, Stage};
        let library = throwto::foreign::Module::loaded(Library::NAME).unwrap();
        let place = Library::open().unwrap().place("spin_o2").unwrap();
        let stage = Arc::new(Stage::new());
        let theirs = Arc::clone(&stage);
        self.books.let_go_soon(move || theirs.let_go());
        let call = Call::new(self.label).abandon_after(micros(100)).allow(&library);
        // SAFETY: the stage outlives the call.
        let enter = || unsafe { place(&*stage) };
        // SAFETY: the place is made to be left anywhere, and the closure borrows what outlives it.
        let ended = unsafe { call.run_forced(enter) };
        self.forced(ended.map(drop), || true)
    }

    /// Unwound from a blocked read; the cleanups of both of its frames have run in the end, whichever end it was.
    #[cfg(throwto_forced)]
    fn unwound(&mut self) -> Met {
        use throwto_fixtures::stuck::{Library, Stage};
        let place = Library::open().unwrap().place("read_with_cleanup").unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let stage = Stage::new().at(&reader);
        self.books.let_go_soon(move || drop(writer));
        let call = Call::new(self.label).unwind_after(micros(100));
        // SAFETY: the stage outlives the call.
        let enter = || unsafe { place(&stage) };
        // SAFETY: the place bears being unwound, and the closure borrows what outlives it.
        let ended = unsafe { call.run_forced(enter) };
        self.forced(ended.map(drop), || stage.cleaned() > 10)
    }

    #[cfg(throwto_forced)]
    fn forced(&mut self, ended: Result<(), CallError>, cleaned: impl FnOnce() -> bool) -> Met {
        match ended {
            Ok(()) => assert!(cleaned(), "a cleanup is missing"),
            Err(CallError::Raised(raised)) => {
                if matches!(raised.rung(), Rung::Abandon | Rung::Unwind) {
                    assert!(cleaned(), "a cleanup is missing");
                }
                foreign::clear_poison(self.label);
                return Err(raised);
            }
            Err(other) => panic!("{other:?}"),
        }
        Ok(())
    }

    #[cfg(not(throwto_forced))]
    fn abandoned(&mut self) -> Met {
        Ok(())
    }

    #[cfg(not(throwto_forced))]
    fn unwound(&mut self) -> Met {
        Ok(())
    }
}

/// Waits a millisecond in somebody else's code, or for input.
fn wait(fd: i32) -> i32 {
    let mut poll = libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    // SAFETY: one pollfd, borrowed for the call.
    unsafe { libc::poll(&raw mut poll, 1, 1) }
}

/// The same for longer, by code that takes EINTR for nothing.
fn stubborn_wait(fd: i32, milliseconds: i32) -> i32 {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: one pollfd, borrowed for the call.
        match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
            -1 if errno() == libc::EINTR => {}
            end => return end,
        }
    }
}
