//! zlib at its best and slowest, fed with the same text for ever.

use std::ffi::c_ulong;
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use libz_sys::*;
use throwto::foreign::{Call, clear_poison};

use crate::case::{Case, Out, StuckIn, Witness};
use crate::linked;

const LABEL: &str = "deflate";
const BEST: i32 = 9;

pub fn set_up() -> io::Result<Case> {
    let compressing = linked::modules(&["deflate.c", "trees.c"], "deflate", deflate as *const ())?;
    let stuck = move |witness: &Witness| {
        // Never freed: it is left in the middle.
        let stream = Box::leak(Box::new(MaybeUninit::<z_stream>::zeroed())).as_mut_ptr();
        let size = size_of::<z_stream>() as i32;
        // SAFETY: a constant of the library.
        let version = unsafe { zlibVersion() };
        // SAFETY: zeros are what zlib wants to see: it uses the allocator of C.
        let begun = unsafe { deflateInit_(stream, BEST, version, size) };
        if begun != Z_OK {
            return Err(Out::Failed(format!("deflateInit: {begun}")));
        }
        let text = coins(1 << 20);
        let mut output = vec![0; 1 << 20];
        let (text, output) = (text.as_slice(), output.as_mut_slice());
        let _guard = witness.guard();
        let call = Call::new(LABEL).abandon_after(Duration::from_millis(5));
        let call = compressing.iter().fold(call, Call::allow);
        let endless = || {
            loop {
                // SAFETY: the stream is ours, and stays where it is.
                let now = unsafe { &mut *stream };
                now.next_in = text.as_ptr().cast_mut();
                now.avail_in = text.len() as u32;
                now.next_out = output.as_mut_ptr();
                now.avail_out = output.len() as u32;
                // SAFETY: begun above, with buffers as long as it says.
                unsafe { deflate(now, Z_NO_FLUSH) };
            }
        };
        // SAFETY: with its stream begun, zlib calls nobody; the closure owns nothing; the stream is never used again.
        unsafe { call.run_forced::<()>(endless) }?;
        Ok(())
    };
    let next = || -> Result<i64, Out> {
        clear_poison(LABEL);
        let text = coins(100_000);
        let mut packed = vec![0; 100_000];
        let mut length = packed.len() as c_ulong;
        let call = Call::new(LABEL);
        // SAFETY: both buffers are as long as is said.
        let done = call.run(|| unsafe {
            compress(
                packed.as_mut_ptr(),
                &raw mut length,
                text.as_ptr(),
                text.len() as c_ulong,
            )
        })?;
        let (mut back, mut returned) = (vec![0; text.len()], text.len() as c_ulong);
        // SAFETY: as above.
        let undone = call
            .run(|| unsafe { uncompress(back.as_mut_ptr(), &raw mut returned, packed.as_ptr(), length) })?;
        Ok(if (done, undone) == (Z_OK, Z_OK) && back == text {
            returned as i64
        } else {
            -1
        })
    };
    Ok(Case::new(StuckIn::Running(LABEL), stuck, next, 100_000))
}

/// Heads and tails: full of repetitions, none of which is long.
fn coins(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let toss = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'a' + (state & 1) as u8
    };
    std::iter::repeat_with(toss).take(count).collect()
}
