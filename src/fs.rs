//! Files: locks, and opening what may block, so that a raise can break it.
//!
//! Owns: [`lock`] and its variants, [`LockGuard`], [`open`], [`open_write`]. Leaves to `io` reading and writing.
//! What has no `try_` in its name may block.
//!
//! **Signal context:** no.

use std::ffi::CString;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::io::complete;
use crate::platform::calls::{Access, Call, Sharing};

/// A lock on a file, given back when this is dropped.
///
/// The lock belongs to the open file, not to the thread: duplicates of the descriptor, and children that inherit it, hold
/// it too, and lose it with this guard.
#[derive(Debug)]
#[must_use = "the lock is given back when the guard is dropped"]
pub struct LockGuard<'a> {
    file: &'a File,
}

impl Deref for LockGuard<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        self.file
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        // It can only fail for a descriptor that is none.
        let _ = self.file.unlock();
    }
}

/// Waits for the exclusive lock on the whole file: `File::lock` (`flock`) that can be raised into.
///
/// Raised means that no lock is held by this call. If the file was already locked through this `File`, the old lock is
/// converted, which the system does by giving it up first: then a raise leaves none. A cancellation point.
///
/// # Errors
/// The exception, as an `io::Error` of kind `Other`; else as `File::lock`.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("throwto-lock-{}", std::process::id()));
/// let file = std::fs::File::create(&path)?;
/// let same = std::fs::File::open(&path)?;
/// let guard = throwto::fs::lock(&file)?;
/// assert!(throwto::fs::try_lock(&same).is_err());
/// drop(guard);
/// assert!(throwto::fs::try_lock(&same).is_ok());
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn lock(file: &File) -> io::Result<LockGuard<'_>> {
    take(file, Sharing::Exclusive)
}

/// As [`lock`], shared with others that lock it shared.
///
/// # Errors
/// As [`lock`].
#[track_caller]
pub fn lock_shared(file: &File) -> io::Result<LockGuard<'_>> {
    take(file, Sharing::Shared)
}

#[track_caller]
fn take(file: &File, sharing: Sharing) -> io::Result<LockGuard<'_>> {
    complete(&Call::lock(file.as_fd(), sharing))?;
    Ok(LockGuard { file })
}

/// Takes the exclusive lock if nobody holds one: `File::try_lock` with a guard. Not a cancellation point.
///
/// # Errors
/// `WouldBlock` if somebody does; else as `File::try_lock`.
pub fn try_lock(file: &File) -> Result<LockGuard<'_>, TryLockError> {
    file.try_lock()?;
    Ok(LockGuard { file })
}

/// As [`try_lock`], shared with others that lock it shared.
///
/// # Errors
/// As [`try_lock`].
pub fn try_lock_shared(file: &File) -> Result<LockGuard<'_>, TryLockError> {
    file.try_lock_shared()?;
    Ok(LockGuard { file })
}

/// Opens what is at `path` for reading: `File::open` that can be raised into, for FIFOs that nobody writes to yet.
///
/// Raised means that nothing was opened. A cancellation point.
///
/// # Errors
/// The exception, as an `io::Error` of kind `Other`; else as `File::open`.
///
/// ```
/// use std::io::Read;
/// let mut text = String::new();
/// throwto::fs::open("/proc/self/comm")?.read_to_string(&mut text)?;
/// assert!(!text.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    open_for(path.as_ref(), Access::Read)
}

/// As [`open`], for writing to what exists, from its beginning, as `OpenOptions::new().write(true)` does.
///
/// # Errors
/// As [`open`].
#[track_caller]
pub fn open_write(path: impl AsRef<Path>) -> io::Result<File> {
    open_for(path.as_ref(), Access::Write)
}

#[track_caller]
fn open_for(path: &Path, access: Access) -> io::Result<File> {
    let path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the path has a zero byte in it"))?;
    let call = Call::open(&path, access);
    complete(&call)?;
    Ok(File::from(call.into_fd()?))
}
