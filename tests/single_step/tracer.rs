//! The tracer's half: stepping one thread of another process, letting the others run.
//!
//! The thread's own breakpoint instruction ([`super::tracee::trap`]) marks where a guarded call begins and ends. A processor's
//! breakpoint, which belongs to one thread, takes it quickly to a place on its way that it passes once.

use std::io::{self, Read, Write};
use std::mem::{offset_of, zeroed};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use super::tracee::{DONE, RAISE, TRACEE};

/// Nothing takes that long unless it hangs.
const HANGS: Duration = Duration::from_secs(60);
/// How long a raiser may take while its target stands still. Then it waits for something that the target holds, the lock
/// of an allocator for one, and the target is let go.
const RAISER: Duration = Duration::from_millis(100);
/// `si_code` of a breakpoint instruction and of the processor's breakpoint.
const SI_KERNEL: i32 = 0x80;
const TRAP_HWBKPT: i32 = 4;
const TRAP_FLAG: u64 = 1 << 8;

/// Why the thread stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Behind its own breakpoint instruction.
    Mark,
    /// At the processor's breakpoint, or behind one instruction.
    Stepped,
    Signal(i32),
    /// It does not: it sleeps in a system call.
    Asleep,
}

/// A traced thread in a process of its own, and the line to the raiser beside it.
pub struct Tracer {
    child: Child,
    line: UnixStream,
    pid: i32,
    tid: i32,
    /// The program counter behind the breakpoint instruction.
    mark: u64,
    /// The value of a nudge for the thread, once one has been seen.
    nudge: Option<u64>,
}

/// A system that does not let us trace.
#[derive(Debug)]
pub struct Refused(pub io::Error);

impl Tracer {
    /// Starts this program again, for the test `name` alone, as the tracee, and takes hold of its thread at its first mark.
    pub fn start(name: &str) -> Result<Self, Refused> {
        let (mut line, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(TRACEE, "yes")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        line.set_read_timeout(Some(HANGS)).unwrap();
        let mut tid = [0; 4];
        line.read_exact(&mut tid).unwrap();
        let pid = child.id() as i32;
        let mut tracer = Self {
            child,
            line,
            pid,
            tid: i32::from_ne_bytes(tid),
            mark: 0,
            nudge: None,
        };
        if tracer.ptrace(libc::PTRACE_SEIZE, 0, 0) < 0 {
            let error = io::Error::last_os_error();
            let refused = error.raw_os_error() == Some(libc::EPERM);
            assert!(refused, "{error}");
            return Err(Refused(error));
        }
        tracer.line.write_all(b"g").unwrap();
        assert_eq!(tracer.wait(false), Stop::Mark);
        tracer.mark = tracer.registers().rip;
        Ok(tracer)
    }

    /// Lets the thread go for good. The tracee checks its books and ends.
    pub fn finish(mut self) {
        self.answer(super::tracee::QUIT);
        assert_eq!(self.ptrace(libc::PTRACE_DETACH, 0, 0), 0);
        self.line.shutdown(std::net::Shutdown::Write).unwrap();
        let deadline = Instant::now() + HANGS;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "the tracee does not end"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(status.success(), "the tracee: {status}");
    }

    fn ptrace(&self, request: libc::c_uint, address: usize, data: usize) -> i64 {
        // SAFETY: the kernel checks the request; where data is an address, it is one of ours that is large enough.
        unsafe { libc::ptrace(request, self.tid, address, data) }
    }

    pub fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: plain data.
        let mut registers: libc::user_regs_struct = unsafe { zeroed() };
        let got = self.ptrace(libc::PTRACE_GETREGS, 0, (&raw mut registers) as usize);
        assert_eq!(got, 0, "{}", io::Error::last_os_error());
        registers
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) {
        let set = self.ptrace(libc::PTRACE_SETREGS, 0, std::ptr::from_ref(registers) as usize);
        assert_eq!(set, 0);
    }

    /// Whether there is a system call at `pc`.
    pub fn is_call(&self, pc: u64) -> bool {
        self.ptrace(libc::PTRACE_PEEKTEXT, pc as usize, 0) as u16 == 0x050f
    }

    /// What the thread said at its mark.
    pub fn said(&self) -> (u64, u64) {
        let registers = self.registers();
        assert_eq!(registers.rip, self.mark);
        (registers.rax, registers.rdi)
    }

    /// What its mark returns to it.
    pub fn answer(&self, value: u64) {
        self.set_registers(&libc::user_regs_struct {
            rax: value,
            ..self.registers()
        });
    }

    fn signal_info(&self) -> libc::siginfo_t {
        // SAFETY: plain data.
        let mut info: libc::siginfo_t = unsafe { zeroed() };
        assert_eq!(
            self.ptrace(libc::PTRACE_GETSIGINFO, 0, (&raw mut info) as usize),
            0
        );
        info
    }

    /// Waits until it stands still, or if it `may_sleep` until it is asleep.
    pub fn wait(&mut self, may_sleep: bool) -> Stop {
        let began = Instant::now();
        let mut asleep = 0;
        for turn in 0_u64.. {
            let mut status = 0;
            // SAFETY: writes one int.
            let got = unsafe { libc::waitpid(self.tid, &raw mut status, libc::WNOHANG | libc::__WALL) };
            assert!(got >= 0, "{}", io::Error::last_os_error());
            if got == self.tid {
                assert!(libc::WIFSTOPPED(status), "the tracee has ended: {status:#x}");
                return self.stopped(libc::WSTOPSIG(status));
            }
            if turn < 100 {
                std::thread::yield_now();
                continue;
            }
            std::thread::sleep(Duration::from_micros(20));
            asleep = if may_sleep && self.state() == 'S' {
                asleep + 1
            } else {
                0
            };
            if asleep == 5 {
                return Stop::Asleep;
            }
            assert!(
                began.elapsed() < HANGS,
                "it hangs: state {}, {}",
                self.state(),
                self.system_call()
            );
        }
        unreachable!()
    }

    fn stopped(&mut self, signal: i32) -> Stop {
        if signal != libc::SIGTRAP {
            if signal == libc::SIGURG {
                // SAFETY: a nudge carries a value; of another signal it is not used.
                let value = unsafe { self.signal_info().si_value() }.sival_ptr as u64;
                self.nudge = Some(value & !0b110);
            }
            return Stop::Signal(signal);
        }
        match self.signal_info().si_code {
            SI_KERNEL => Stop::Mark,
            _ => Stop::Stepped,
        }
    }

    fn told(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/task/{}/{file}", self.pid, self.tid)).unwrap_or_default()
    }

    fn state(&self) -> char {
        let stat = self.told("stat");
        stat.rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next())
            .unwrap_or('?')
    }

    pub fn system_call(&self) -> String {
        self.told("syscall")
    }

    /// One instruction, with `signal` delivered first if it is not 0.
    pub fn step(&mut self, signal: i32) -> Stop {
        self.resume_stepping(signal);
        self.wait(true)
    }

    fn resume_stepping(&self, signal: i32) {
        let stepped = self.ptrace(libc::PTRACE_SINGLESTEP, 0, signal as usize);
        assert_eq!(stepped, 0, "{}", io::Error::last_os_error());
    }

    pub fn go(&self, signal: i32) {
        assert_eq!(self.ptrace(libc::PTRACE_CONT, 0, signal as usize), 0);
    }

    /// Lets it run until it is asleep in a read.
    pub fn run_into_read(&mut self) {
        self.go(0);
        let began = Instant::now();
        loop {
            assert_eq!(self.wait(true), Stop::Asleep);
            if self.system_call().starts_with(&format!("{} ", libc::SYS_read)) {
                return;
            }
            assert!(
                began.elapsed() < HANGS,
                "it sleeps elsewhere: {}",
                self.system_call()
            );
        }
    }

    /// Lets it run to its next mark, with every signal that comes.
    pub fn run_to_mark(&mut self, signal: i32) {
        self.run_to_mark_from(0, signal);
    }

    /// The same from `at`. Tells whether a nudge found it asleep in a call that it had not been in.
    pub fn run_to_mark_from(&mut self, at: u64, mut signal: i32) -> bool {
        let mut in_call = false;
        let began = Instant::now();
        loop {
            assert!(
                began.elapsed() < HANGS,
                "it hangs, though signals come: {}",
                self.system_call()
            );
            self.go(signal);
            signal = match self.wait(false) {
                Stop::Mark => return in_call,
                Stop::Signal(signal) => {
                    let registers = self.registers();
                    let sleeps = [libc::SYS_read, libc::SYS_accept4].contains(&(registers.orig_rax as i64));
                    // Else a handler has begun on top of the call, or the call is the one that it stood behind.
                    let asleep = sleeps && registers.rip != at && self.is_call(registers.rip - 2);
                    in_call |= signal == libc::SIGURG && asleep;
                    signal
                }
                // Code that saves and restores its flags has saved the flag by which it was stepped.
                _ => {
                    let registers = self.registers();
                    let eflags = registers.eflags & !TRAP_FLAG;
                    self.set_registers(&libc::user_regs_struct { eflags, ..registers });
                    0
                }
            };
        }
    }

    /// Lets it run to `pc`, which it passes once, with `signal` delivered first if it is not 0. `false` if this processor has no breakpoints to lend.
    pub fn run_to(&mut self, pc: u64, signal: i32) -> bool {
        let place = |register: usize| offset_of!(libc::user, u_debugreg) + 8 * register;
        if self.ptrace(libc::PTRACE_POKEUSER, place(0), pc as usize) < 0 {
            return false;
        }
        if self.ptrace(libc::PTRACE_POKEUSER, place(7), 1) < 0 {
            return false;
        }
        self.go(signal);
        let stop = self.wait(false);
        assert_eq!(
            (stop, self.registers().rip),
            (Stop::Stepped, pc),
            "the way has changed"
        );
        assert_eq!(self.signal_info().si_code, TRAP_HWBKPT);
        assert_eq!(self.ptrace(libc::PTRACE_POKEUSER, place(7), 0), 0);
        true
    }

    /// Has somebody else in the tracee do what `order` says.
    pub fn have_done(&mut self, order: u8) {
        self.line.write_all(&[order]).unwrap();
        self.late();
    }

    /// Waits for the other one to be done.
    fn done(&mut self, limit: Duration) -> bool {
        self.line.set_read_timeout(Some(limit)).unwrap();
        let mut word = [0];
        match self.line.read(&mut word) {
            Ok(1) => assert_eq!(word, [DONE]),
            Ok(_) => panic!("the tracee has ended"),
            Err(_) => return false,
        }
        true
    }

    /// Waits for a raise that was not made while the thread stood still.
    pub fn late(&mut self) {
        assert!(self.done(HANGS), "the raiser hangs");
    }

    /// Raises while the thread stands still. `false` if that waits for the thread.
    pub fn raise(&mut self) -> bool {
        self.line.write_all(&[RAISE]).unwrap();
        self.done(RAISER)
    }

    /// Sends a signal to the thread.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the thread is there: it is traced.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, self.pid, self.tid, signal) };
        assert_eq!(sent, 0);
    }

    /// Sends a nudge as the driver would. `false` if none has been seen yet.
    pub fn send_nudge(&self) -> bool {
        const NUDGE_CODE: i32 = -0x7474;
        let Some(value) = self.nudge else { return false };
        let mut info = [0_u64; 16];
        info[0] = libc::SIGURG as u64;
        info[1] = u64::from(NUDGE_CODE as u32);
        info[2] = self.pid as u64;
        info[3] = value;
        // SAFETY: the kernel reads 128 bytes.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_rt_tgsigqueueinfo,
                self.pid,
                self.tid,
                libc::SIGURG,
                info.as_ptr(),
            )
        };
        assert_eq!(sent, 0, "{}", io::Error::last_os_error());
        true
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        let _ = self.child.kill();
        let mut status = 0;
        // SAFETY: reaps the traced thread, whose end its leader's end waits for.
        unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL) };
        // SAFETY: a null pointer asks for no status.
        unsafe { libc::waitpid(self.pid, null_mut(), 0) };
    }
}
