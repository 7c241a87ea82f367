//! Pins versus leaving a region: what a looker sees behind its fence stays until it unpins.
//!
//! Owns: the models of invariant 4 of `protocol::record`. The looker *writes* in the frame, as a hook does in what it has
//! captured: loom objects to any access of the owner's that is not ordered after it.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]

use std::rc::Rc;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{Ordering, fence};
use loom::thread;

use crate::protocol::record::{AfterLeave, Entered, Fences, Owner, Record};
use crate::protocol::word::{Kind, Region};
use crate::stage::{FIRST, Futex, Membarrier, model, record, release};
use crate::sync_shim::in_models::LIGHT_FENCE;

/// What stands on the owner's stack. The tests keep its memory; whether it may be touched is loom's to say.
struct Frame {
    captured: UnsafeCell<u32>,
}

impl Frame {
    fn new() -> Self {
        Self {
            captured: UnsafeCell::new(0),
        }
    }

    fn touch(&self) {
        // SAFETY: loom panics if another access is concurrent.
        self.captured.with_mut(|captured| unsafe { *captured += 1 });
    }
}

fn enter_framed(owner: Owner, frame: &Frame, fences: Fences) -> Entered {
    frame.touch();
    owner.enter(
        Kind::Foreign,
        Region::FRAMED,
        std::ptr::from_ref(frame).cast_mut().cast(),
        fences,
    )
}

/// As `Inside::drop` does; then the frame is gone.
fn leave_framed(owner: Owner, entered: Entered, frame: &Frame, fences: Fences, futex: &Futex) {
    if let AfterLeave::Owes {
        await_looks: true, ..
    } = owner.leave(&entered, fences)
    {
        while let Some(word) = owner.await_looks() {
            Membarrier::owner_blocks();
            futex.wait(owner.record().attention_word(), word.futex());
        }
    }
    frame.touch();
}

/// The looker: `status`, or the driver with a hook.
fn look(record: &'static Record, heavy_fence: impl FnOnce(), futex: &Futex) {
    let Some(pin) = record.look(FIRST) else { return };
    heavy_fence();
    if record.region().has(Region::FRAMED) {
        // SAFETY: null, or one of the model's frames, whose memory outlives its threads.
        let frame = unsafe { record.frame().cast::<Frame>().as_ref() };
        // None: the region is being left at this moment.
        if let Some(frame) = frame {
            frame.touch();
        }
    }
    release(pin, futex);
}

fn full_fence() {
    fence(Ordering::SeqCst);
}

fn one_region(fences: Fences, heavy_fence: impl FnOnce(), at_end: impl FnOnce() + 'static) {
    let (record, futex) = (record(), Arc::new(Futex::default()));
    let frame = Rc::new(Frame::new());
    let owner = thread::spawn({
        let (futex, frame) = (futex.clone(), frame.clone());
        move || {
            let owner = Owner::of(record);
            let entered = enter_framed(owner, &frame, fences);
            leave_framed(owner, entered, &frame, fences, &futex);
            at_end();
        }
    });
    look(record, heavy_fence, &futex);
    owner.join().unwrap();
}

/// Shows protocol::record I4.
#[test]
fn a_frame_is_never_touched_after_its_region() {
    model(None, || one_region(Fences::Full, full_fence, || {}));
}

#[test]
fn a_frame_is_never_touched_after_its_region_under_membarrier() {
    model(Some(3), || {
        let barrier = Membarrier::install();
        let remote = barrier.clone();
        one_region(
            Fences::Light,
            || barrier.heavy_fence(),
            move || remote.not_running(),
        );
    });
}

/// A looker that sees the outer region may get the inner one's frame: whole, and for as long as it looks. A region without a frame
/// between the two leaves the outer one's where it finds it, or puts it back.
#[test]
fn nested_frames_are_whole_and_stay() {
    for bare_between in [false, true] {
        model(Some(3), move || {
            let (record, futex) = (record(), Arc::new(Futex::default()));
            let frames = Rc::new([Frame::new(), Frame::new()]);
            let owner = thread::spawn({
                let (futex, frames) = (futex.clone(), frames.clone());
                move || {
                    let owner = Owner::of(record);
                    let outer = enter_framed(owner, &frames[0], Fences::Full);
                    let between = bare_between
                        .then(|| owner.enter(Kind::Foreign, 0, std::ptr::null_mut(), Fences::Full));
                    let inner = enter_framed(owner, &frames[1], Fences::Full);
                    leave_framed(owner, inner, &frames[1], Fences::Full, &futex);
                    if let Some(between) = between {
                        // Whoever looks now looks at the outer frame, or at none.
                        let _no_frame = owner.leave(&between, Fences::Full);
                    }
                    leave_framed(owner, outer, &frames[0], Fences::Full, &futex);
                }
            });
            look(record, full_fence, &futex);
            owner.join().unwrap();
        });
    }
}

/// A looker without its fence reads a frame that is gone: the models above have teeth.
#[test]
#[should_panic(expected = "Causality violation")]
fn without_the_lookers_fence_a_frame_may_be_gone() {
    model(None, || one_region(Fences::Full, || {}, || {}));
}

/// So does an owner without its own.
#[test]
#[should_panic(expected = "Causality violation")]
fn without_the_owners_fence_a_frame_may_be_gone() {
    model(None, || {
        LIGHT_FENCE.set(|| {});
        one_region(Fences::Light, full_fence, || {});
    });
}
