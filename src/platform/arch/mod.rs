//! One instruction set: every file here defines the same names.
//!
//! Owns: the choice. The contract: `CANCELLED`, `TELLS_NUMBER`, `window`, `classify`, `Context` with the methods below.
//!
//! **Signal context:** see each file.
//!
//! | `Context` | contract |
//! | --- | --- |
//! | `pc`, `sp` | as interrupted |
//! | `cancel_window` | goes on at the window's `cancel` label |
//! | `after_interrupted_call` | stands right behind a call that has just got `-EINTR`; never true for one that got anything else |
//! | `syscall_number`, `syscall_args` | of that call. `TELLS_NUMBER`: the number is always told, exactly; then the first argument may be lost to the result, and nobody may decide by it. Otherwise the number is decoded where it can be, and all arguments are there |
//! | `replace_result` | that call returns this instead |
//! | `before_call`, `number_to_call`, `skip_call` | stands right before a call; which; as if it had been made |
//! | `block` | a signal stays blocked in the interrupted code |

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
mod x86_64_number;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::{CANCELLED, Context, TELLS_NUMBER, classify, window};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{CANCELLED, Context, TELLS_NUMBER, classify, window};

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    #[test]
    fn a_call_goes_through_unless_the_word_says_no() {
        let word = 0b10_u32;
        let getpid = |interest| {
            // SAFETY: getpid has no arguments, and the word outlives the call.
            unsafe { window(&raw const word, interest, libc::SYS_getpid as isize, [0; 6]) }
        };
        assert_eq!(getpid(0b01), std::process::id() as isize);
        assert_eq!(getpid(0b10), CANCELLED);
    }

    #[test]
    fn six_arguments_arrive_in_their_places() {
        // mmap takes six: an anonymous page at a hinted address with every argument significant.
        let word = 0_u32;
        let args = [
            0,
            4096,
            libc::PROT_READ as usize,
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize,
            usize::MAX,
            0,
        ];
        // SAFETY: a fresh anonymous mapping touches nothing that exists.
        let page = unsafe { window(&raw const word, 0, libc::SYS_mmap as isize, args) };
        assert!(page > 0 && page % 4096 == 0);
        // SAFETY: the page was mapped above and nobody has it.
        let unmapped = unsafe {
            window(
                &raw const word,
                0,
                libc::SYS_munmap as isize,
                [page as usize, 4096, 0, 0, 0, 0],
            )
        };
        assert_eq!(unmapped, 0);
    }
}
