//! What may be a module: copies of a library that are opened, changed and closed.
//!
//! **Signal context:** no.

#![allow(unsafe_code)]

use std::path::Path;

use throwto_fixtures::stuck::Library;

use super::*;

/// A copy of the fixture, opened, and the address of something in it.
struct Copy {
    handle: *mut libc::c_void,
    inside: usize,
}

impl Copy {
    fn open(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        Library::open().unwrap();
        let original = Image::loaded(Library::NAME).unwrap().name();
        let mut bytes = std::fs::read(original).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a string with its end; the fixture has the C++ library's constructors at most.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        // SAFETY: an open handle, a string with its end.
        let inside = unsafe { libc::dlsym(handle, c"throwto_lock".as_ptr()) } as usize;
        assert_ne!(inside, 0);
        Self { handle, inside }
    }

    /// Whether it is still there afterwards.
    fn close(self) -> bool {
        // SAFETY: opened above, and nobody uses it any more.
        unsafe { libc::dlclose(self.handle) };
        Image::containing(self.inside).is_some()
    }
}

/// Shows platform::linux::module I1, and platform::linux::image I1 for an image that is found by name.
#[test]
fn a_library_that_a_module_names_is_never_unloaded() {
    let dir = tempfile::tempdir().unwrap();
    let unnamed = Copy::open(&dir.path().join("libthrowto_unnamed.so"), |_| ());
    assert!(!unnamed.close(), "what nobody names is unloaded");
    let named = Copy::open(&dir.path().join("libthrowto_named.so"), |_| ());
    let module = Module::loaded("libthrowto_named.so").unwrap();
    let inside = named.inside;
    assert!(named.close());
    assert!(module.has(inside) && module.image().has_code(inside));
    let of_address = Copy::open(&dir.path().join("libthrowto_of_address.so"), |_| ());
    Module::of(of_address.inside).unwrap();
    assert!(of_address.close());
}

#[test]
fn a_library_without_descriptions_of_its_frames_is_refused() {
    const NOTHING: [u8; 4] = libc::PT_NULL.to_ne_bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libthrowto_undescribed.so");
    let copy = Copy::open(&path, |bytes| {
        let index = libc::PT_GNU_EH_FRAME.to_ne_bytes();
        let header = bytes.as_chunks::<4>().0.iter().position(|word| *word == index);
        let at = 4 * header.unwrap();
        bytes[at..at + 4].copy_from_slice(&NOTHING);
    });
    let name = path.to_str().unwrap().to_owned();
    assert_eq!(
        refused(Module::loaded(&name)),
        NoModule::NoDescription { name: name.clone() }
    );
    let beginning = Module::between(copy.inside, copy.inside);
    assert_eq!(refused(beginning), NoModule::NoDescription { name });
    assert!(!copy.close());
}

#[test]
fn a_stripped_library_is_a_module_and_its_places_are_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let copy = Copy::open(&dir.path().join("libthrowto_stripped.so"), |bytes| {
        // The table of sections and how many there are.
        bytes[40..48].fill(0);
        bytes[60..64].fill(0);
    });
    let name = symbols::name(copy.inside);
    assert!(
        name.starts_with("0x") && name.ends_with(" in libthrowto_stripped.so"),
        "{name}"
    );
    Module::of(copy.inside).unwrap();
}

fn refused(module: Result<Module, NoModule>) -> NoModule {
    module.map(|module| module.image().name()).unwrap_err()
}

// Code that nothing describes.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.throwto_undescribed,\"ax\",@progbits",
    ".hidden throwto_undescribed",
    ".globl throwto_undescribed",
    ".p2align 4",
    "throwto_undescribed:",
    "ud2",
    ".zero 30",
    ".popsection",
);

#[test]
fn what_may_not_be_left_is_refused_with_its_reason() {
    let here = refused as *const () as usize;
    let libc = Image::all()
        .into_iter()
        .find(|(_, kind)| *kind == Kind::Libc)
        .unwrap()
        .0;
    let never = || NoModule::Never { name: libc.name() };
    assert_eq!(refused(Module::loaded("")), NoModule::NotLoaded);
    assert_eq!(refused(Module::of(8)), NoModule::NotLoaded);
    assert_eq!(refused(Module::of(here)), NoModule::Executable);
    let in_libc = libc.defines(c"getpid").unwrap();
    assert_eq!(refused(Module::of(in_libc)), never());
    assert_eq!(refused(Module::between(in_libc, in_libc)), never());
    assert_eq!(refused(Module::between(8, 8)), NoModule::NotLoaded);
    assert_eq!(refused(Module::between(here, here - 1)), NoModule::NoRange);
    let data = (&raw const DATA) as usize;
    assert_eq!(refused(Module::between(here, data)), NoModule::NoRange);
    assert_eq!(refused(Module::between(data, data)), NoModule::NoRange);
    assert!(matches!(
        refused(Module::between(here, here)),
        NoModule::RustInside { .. }
    ));
}

static DATA: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(7);

#[cfg(target_arch = "x86_64")]
#[test]
fn a_range_whose_last_function_is_not_described_is_refused() {
    unsafe extern "C" {
        safe static throwto_undescribed: u8;
    }
    let here = (&raw const throwto_undescribed) as usize;
    let name = Image::program().unwrap().name();
    assert_eq!(
        refused(Module::between(here, here)),
        NoModule::NoDescription { name }
    );
}
