//! [`Module`]: code that a call may be abandoned in.
//!
//! Owns: the public constructors. Leaves to the platform finding the code and what describes its frames.
//!
//! **Signal context:** no.

use crate::foreign::ModuleError;
use crate::platform::module as image;

/// Code whose frames may be dropped: a loaded library, or a range of the executable.
///
/// A value is a few words; a library that it names stays loaded until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Module(pub(super) image::Module);

impl Module {
    /// The loaded library with this file name (`libfoo.so.1`) or path.
    ///
    /// # Errors
    /// [`ModuleError`]: it is not loaded, it is one that must never be left (the C library, an allocator ..), or nothing
    /// describes its frames.
    ///
    /// ```
    /// use throwto::foreign::{Module, ModuleError};
    /// let unknown = Module::loaded("libnever-heard-of.so");
    /// assert!(matches!(unknown, Err(ModuleError::NotLoaded { .. } | ModuleError::Unsupported)));
    /// ```
    pub fn loaded(name: &str) -> Result<Self, ModuleError> {
        image::Module::loaded(name)
            .map(Self)
            .map_err(|reason| ModuleError::of(reason, format_args!("called {name:?}")))
    }

    /// The loaded library that this address is in, of one of its functions for example.
    ///
    /// # Errors
    /// As [`loaded`](Self::loaded); [`ModuleError::Executable`] for an address in the program itself.
    ///
    /// ```
    /// use throwto::foreign::{Module, ModuleError};
    /// let in_the_program = throwto::stats as *const ();
    /// assert!(matches!(Module::of(in_the_program), Err(ModuleError::Executable | ModuleError::Unsupported)));
    /// ```
    pub fn of(address: *const ()) -> Result<Self, ModuleError> {
        image::Module::of(address as usize)
            .map(Self)
            .map_err(|reason| ModuleError::of(reason, format_args!("at {address:p}")))
    }

    /// Statically linked code: from the function `first` to the end of the function `last`.
    ///
    /// The linker keeps the functions of an object file, and as a rule the object files of a static library, together and in
    /// order; `nm --numeric-sort` on the program tells. The two may be the same function.
    ///
    /// # Errors
    /// [`ModuleError::NoRange`] if `last` lies before `first` or in another object, [`ModuleError::RustInside`] if the range
    /// holds Rust code (as far as the program's symbols tell), [`ModuleError::NoDescription`] without frame descriptions.
    ///
    /// ```
    /// use throwto::foreign::{Module, ModuleError};
    /// let rust = throwto::stats as *const ();
    /// let refused = Module::from_symbols(rust, rust);
    /// assert!(matches!(refused, Err(ModuleError::RustInside { .. } | ModuleError::Unsupported)));
    /// ```
    pub fn from_symbols(first: *const (), last: *const ()) -> Result<Self, ModuleError> {
        image::Module::between(first as usize, last as usize)
            .map(Self)
            .map_err(|reason| ModuleError::of(reason, format_args!("at {first:p}")))
    }
}
