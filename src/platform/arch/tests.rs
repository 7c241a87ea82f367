//! What the window must do on every instruction set.
//!
//! **Signal context:** no, tests.

#![allow(unsafe_code)]

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
