//! What `src/sync` and `src/region.rs` build upon.
//!
//! Owns: [`futex`](platform::futex), which sleeps and wakes as the kernel's does; which record is whose; taking an exception.
//!
//! **Signal context:** no.

pub(crate) mod current {
    use std::cell::Cell;

    use crate::platform::futex;
    use crate::protocol::record::{Owner, Record};

    shuttle::thread_local! {
        static CURRENT: Cell<Option<&'static Record>> = Cell::new(None);
    }

    pub(crate) fn owner() -> Option<Owner> {
        CURRENT.with(Cell::get).map(Owner::of)
    }

    pub(crate) fn set(record: Option<&'static Record>) {
        CURRENT.with(|current| current.set(record));
    }

    pub(crate) fn await_looks(owner: Owner) {
        while let Some(word) = owner.await_looks() {
            futex::wait(owner.record().attention_word(), word.futex(), None);
        }
    }
}

pub(crate) mod exception {
    pub trait Exception: std::error::Error + Send + 'static {}
    impl<E: std::error::Error + Send + 'static> Exception for E {}
}

pub(crate) mod mask {
    use crate::protocol::record::Owner;

    /// There is no driver: nobody blocks in a foreign call.
    pub(crate) fn enlist(_owner: Owner) {}
}

pub(crate) mod platform {
    pub(crate) mod futex {
        use std::cell::RefCell;
        use std::stage::stage;

        use crate::sync_shim::AtomicU64;

        #[derive(Default)]
        struct Sleepers {
            /// By address, who has slept longest first.
            asleep: Vec<(usize, u64)>,
            last: u64,
        }

        // All threads of one play run on one thread of the system.
        std::thread_local! {
            static SLEEPERS: RefCell<Sleepers> = RefCell::default();
        }

        pub(crate) fn begin() {
            SLEEPERS.take();
        }

        pub(crate) fn now() -> u64 {
            stage().now()
        }

        /// Compares and falls asleep in one step. Only a wake or the time ends it: nobody looks at the word again. Whether it was woken.
        #[allow(unsafe_code)]
        pub(crate) fn wait(word: &AtomicU64, expected: u32, until: Option<u64>) -> bool {
            stage().step();
            let address = std::ptr::from_ref(word).addr();
            // SAFETY: shuttle's own read, without a switch of threads; they all run on one thread.
            if unsafe { word.raw_load() } as u32 != expected {
                return false;
            }
            let me = SLEEPERS.with_borrow_mut(|sleepers| {
                sleepers.last += 1;
                sleepers.asleep.push((address, sleepers.last));
                (address, sleepers.last)
            });
            let is_asleep = || SLEEPERS.with_borrow(|sleepers| sleepers.asleep.contains(&me));
            stage().sleep_until(|| !is_asleep() || until.is_some_and(|at| at <= now()));
            let woken = !is_asleep();
            SLEEPERS.with_borrow_mut(|sleepers| sleepers.asleep.retain(|one| *one != me));
            woken
        }

        pub(crate) fn wake(word: &AtomicU64) {
            stage().step();
            let address = std::ptr::from_ref(word).addr();
            SLEEPERS.with_borrow_mut(|sleepers| {
                let first = sleepers.asleep.iter().position(|(at, _)| *at == address);
                first.map(|first| sleepers.asleep.remove(first));
            });
            stage().ring();
        }
    }
}

pub(crate) mod raised {
    /// By its number.
    #[derive(Debug, PartialEq, Eq)]
    pub struct Raised(pub(crate) usize);

    impl std::fmt::Display for Raised {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "raised {}", self.0)
        }
    }

    impl std::error::Error for Raised {}

    impl Raised {
        pub(crate) fn here<E: crate::exception::Exception>(_value: E) -> Self {
            unreachable!("no play turns an error into an exception")
        }

        pub fn is<E: crate::exception::Exception>(&self) -> bool {
            std::any::TypeId::of::<E>() == std::any::TypeId::of::<crate::play::Numbered>()
        }
    }

    impl From<Raised> for std::io::Error {
        fn from(raised: Raised) -> Self {
            Self::other(raised)
        }
    }
}

pub(crate) mod receipt {
    use std::stage::stage;
    use std::time::Duration;

    pub(crate) fn deadline_after(limit: Duration) -> Option<u64> {
        let limit = u64::try_from(limit.as_nanos()).ok()?;
        stage().now().checked_add(limit)
    }
}

pub(crate) mod rung {
    pub(crate) const WOKEN: u32 = 0x80;
}

/// As `safepoint::safepoint` does.
pub(crate) fn safepoint() -> Result<(), raised::Raised> {
    use crate::protocol::word::Moment;
    let raised = current::owner().and_then(|owner| safepoint::take(owner, Moment::Running));
    raised.map_or(Ok(()), Err)
}

/// `crate::safepoint` is a function and a module.
pub(crate) mod safepoint {
    use crate::platform::futex;
    use crate::play::Numbered;
    use crate::protocol::entry::Payload;
    use crate::protocol::receipt::ReceiptState;
    use crate::protocol::record::Owner;
    use crate::protocol::word::{Gate, Moment};
    use crate::raised::Raised;

    /// As the real one does.
    pub(crate) fn take(owner: Owner, moment: Moment) -> Option<Raised> {
        if !owner.record().attention().calls() || owner.gate(moment, futex::now) != Gate::Open {
            return None;
        }
        take_by(owner, 0)
    }

    pub(crate) fn take_by(owner: Owner, _rung: u32) -> Option<Raised> {
        let mut entry = owner.take_pending()?;
        let _nobody_waits = entry.receipt.advance(ReceiptState::Delivered);
        let Payload::Value(value) = entry.payload.take() else {
            unreachable!("the plays raise values")
        };
        let number = value.downcast_ref::<Numbered>().expect("one of the play's").0;
        let _nobody_waits = entry.receipt.advance(ReceiptState::Caught);
        Some(Raised(number))
    }
}
