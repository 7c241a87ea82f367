//! Systems where no thread is left by force: the same names, and an answer that says so.
//!
//! Owns: nothing. See `platform` for the contract.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]
#![allow(
    clippy::unnecessary_wraps,
    reason = "the contract has the backends' signatures"
)]

pub(crate) mod forced {
    //! No trampoline.

    use std::convert::Infallible;
    use std::marker::PhantomData;
    use std::mem::MaybeUninit;

    use super::module::Module;
    use crate::platform::spot::{Passed, Refused, Why};
    use crate::protocol::record::Record;

    /// There are none.
    pub(crate) struct Facts(Infallible);

    impl Facts {
        pub(crate) fn no_unwind(&self) -> Option<&'static str> {
            match self.0 {}
        }
    }

    pub(crate) fn prepare(_first: fn()) -> Result<&'static Facts, &'static str> {
        Err("unwind or abandon: they need Linux on x86-64 or aarch64 with the GNU C library")
    }

    pub(crate) type Function = unsafe extern "C-unwind" fn(*mut (), MaybeUninit<usize>) -> MaybeUninit<usize>;

    pub(crate) struct Beginning;

    impl Beginning {
        pub(crate) const fn of(_shim: Function) -> Self {
            Self
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Ready(Infallible);

    impl Ready {
        pub(crate) fn record(self) -> &'static Record {
            match self.0 {}
        }
    }

    pub(crate) fn ready() -> Option<Ready> {
        None
    }

    pub(crate) fn get_ready(facts: &'static Facts, _record: &'static Record, _light: bool) -> Ready {
        match facts.0 {}
    }

    pub(crate) fn forget() {}

    /// What nobody asks for in the end.
    pub(crate) struct Terms {
        pub(crate) allowed: Vec<Module>,
        pub(crate) at_once: bool,
    }

    impl Terms {
        pub(crate) const fn new() -> Self {
            Self {
                allowed: Vec::new(),
                at_once: false,
            }
        }
    }

    pub(crate) struct Escape<'a>(Infallible, PhantomData<&'a Terms>);

    impl<'a> Escape<'a> {
        /// # Safety
        /// None to keep.
        pub(crate) unsafe fn put<C>(_place: *mut Self, ready: Ready, _call: &'a C, _beginning: &Beginning) {
            match ready.0 {}
        }

        /// # Safety
        /// None to keep.
        pub(crate) unsafe fn of<'f>(_frame: *const ()) -> Option<&'f Self> {
            None
        }

        /// # Safety
        /// None to keep: there is no such value.
        pub(crate) unsafe fn call(this: *mut Self, _word: MaybeUninit<usize>) -> Option<MaybeUninit<usize>> {
            // SAFETY: by contract one of a type without values.
            match unsafe { &*this }.0 {}
        }

        /// # Safety
        /// None to keep.
        pub(crate) unsafe fn landed(this: *mut Self) -> Passed {
            // SAFETY: by contract one of a type without values.
            match unsafe { &*this }.0 {}
        }

        pub(crate) fn refuse(&self, _why: Why, _pc: usize) {
            match self.0 {}
        }

        pub(crate) fn refused(&self) -> Option<Refused> {
            match self.0 {}
        }
    }
}

pub(crate) mod module {
    //! No code may be left.

    use crate::platform::spot::NoModule;

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Module;

    impl Module {
        pub(crate) fn loaded(_name: &str) -> Result<Self, NoModule> {
            Err(NoModule::Unsupported)
        }

        pub(crate) fn of(_address: usize) -> Result<Self, NoModule> {
            Err(NoModule::Unsupported)
        }

        pub(crate) fn between(_first: usize, _last: usize) -> Result<Self, NoModule> {
            Err(NoModule::Unsupported)
        }
    }
}

pub(crate) mod symbols {
    //! No names.

    pub(crate) fn name(pc: usize) -> String {
        format!("{pc:#x}")
    }
}
