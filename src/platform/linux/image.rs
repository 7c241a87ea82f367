//! One loaded ELF object: where its segments lie, and what it is.
//!
//! Owns: [`Image`], how it is found, and the bounded looks into it. Leaves to [`super::frames`]: what its frame
//! descriptions say. To `super::symbols`: names of functions.
//!
//! **Signal context:** yes for [`find_now`] and for what an [`Image`] tells of addresses and bytes: `_dl_find_object` is
//! documented as async-signal-safe, and everything else reads program headers. No for whatever takes or gives a name,
//! and for [`prepare`].
//!
//! - I1. An image is looked into only while it is loaded: an image found from a program counter of a thread stays loaded
//!   while that code is on the thread's stack; one found by name, while its user keeps it.
//! - I2. No byte is read that a segment with read permission does not contain, and slices are made of segments that
//!   nobody may write.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int, c_void};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use once_cell::race::OnceBox;

/// One loaded object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    /// From the lowest byte of its segments to behind the highest.
    start: usize,
    end: usize,
    /// What the loader added to the addresses in the file.
    bias: usize,
    headers: &'static [libc::Elf64_Phdr],
    /// Its `.eh_frame_hdr` and what follows in its segment; nothing if it has none.
    index: &'static [u8],
    /// Rows of the index that are looked at.
    rows: (u32, u32),
}

/// What an image is for, as far as leaving or unwinding its frames is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The program itself.
    Executable,
    Libc,
    Loader,
    Unwinder,
    Allocator,
    CxxRuntime,
    Vdso,
    /// A library.
    Other,
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        self.start == other.start
    }
}

impl Image {
    /// The image that has `address` in one of its segments.
    pub(crate) fn containing(address: usize) -> Option<Image> {
        first(|image, _| image.segment(address).is_some())
    }

    /// The image that was loaded from a file of this name: a path as the loader has it, the last part of one, or what
    /// `dlopen` finds under the name.
    pub(crate) fn loaded(file_name: &str) -> Option<Image> {
        // The loader has the program without a name.
        if file_name.is_empty() {
            return None;
        }
        let by_name = first(|_, name| {
            let name = name.to_str().unwrap_or_default();
            name == file_name || last_part(name) == file_name
        });
        by_name.or_else(|| Self::known_to_loader(file_name))
    }

    /// By `DT_SONAME`, which the file's name need not show.
    fn known_to_loader(name: &str) -> Option<Image> {
        let name = CString::new(name).ok()?;
        // SAFETY: a string with its end; NOLOAD runs no constructor.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            return None;
        }
        let mut map: *const LinkMap = std::ptr::null();
        // SAFETY: the handle is open, and this request writes one pointer.
        let failed = unsafe { libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) };
        let dynamic = (failed == 0 && !map.is_null()).then(|| {
            // SAFETY: the loader's own description of an object that is open here.
            unsafe { (*map).dynamic }
        });
        // SAFETY: closes what was opened above; whoever loaded the object still holds it.
        unsafe { libc::dlclose(handle) };
        Self::containing(dynamic?)
    }

    /// Never unloads the library of this name, which is loaded.
    pub(crate) fn keep(name: &CStr) {
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        // SAFETY: a string with its end; NOLOAD runs no constructor. The handle is not closed, on purpose.
        unsafe { libc::dlopen(name.as_ptr(), flags) };
    }

    /// From the first byte of its segments to behind the last.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// What the loader added to the addresses in the file.
    pub(crate) fn bias(&self) -> usize {
        self.bias
    }

    fn segments(&self) -> impl Iterator<Item = (u32, Range<usize>)> + use<> {
        let bias = self.bias;
        let loads = self.headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
        loads.map(move |h| {
            let from = bias.wrapping_add(h.p_vaddr as usize);
            (h.p_flags, from..from.saturating_add(h.p_memsz as usize))
        })
    }

    /// The segment that has `address`, and its permissions.
    fn segment(&self, address: usize) -> Option<(u32, Range<usize>)> {
        self.segments().find(|(_, range)| range.contains(&address))
    }

    /// Whether `pc` lies in code of this image.
    pub(crate) fn has_code(&self, pc: usize) -> bool {
        self.segment(pc).is_some_and(|(flags, _)| flags & libc::PF_X != 0)
    }

    /// The code that holds `pc`: one segment.
    pub(crate) fn code(&self, pc: usize) -> Option<Range<usize>> {
        let (flags, range) = self.segment(pc)?;
        (flags & libc::PF_X != 0).then_some(range)
    }

    /// The bytes from `address` to the end of its segment (I2).
    pub(crate) fn bytes_from(&self, address: usize) -> Option<&'static [u8]> {
        let (flags, range) = self.segment(address)?;
        if flags & libc::PF_R == 0 || flags & libc::PF_W != 0 {
            return None;
        }
        let length = range.end.checked_sub(address)?;
        // SAFETY: by I2 mapped and constant; by I1 for as long as anybody looks.
        Some(unsafe { std::slice::from_raw_parts(address as *const u8, length) })
    }

    /// The word at `address`, which may lie in data.
    pub(crate) fn word_at(&self, address: usize) -> Option<usize> {
        let (flags, range) = self.segment(address)?;
        let behind = address.checked_add(size_of::<usize>())?;
        if flags & libc::PF_R == 0 || behind > range.end || !address.is_multiple_of(align_of::<usize>()) {
            return None;
        }
        // SAFETY: mapped, readable and aligned, as was checked (I2); volatile, since it may be written elsewhere.
        Some(unsafe { (address as *const usize).read_volatile() })
    }

    /// Its `.eh_frame_hdr`: the bytes from there to the end of the segment.
    pub(crate) fn frame_index(&self) -> Option<&'static [u8]> {
        (!self.index.is_empty()).then_some(self.index)
    }

    fn find_index(&self) -> Option<&'static [u8]> {
        let header = self.headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME)?;
        self.bytes_from(self.bias.wrapping_add(header.p_vaddr as usize))
    }

    /// The rows of the index that are looked at.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.0 as usize..self.rows.1 as usize
    }

    /// For looking only at these rows of the index: a shorter search.
    pub(crate) fn with_rows(self, rows: Range<usize>) -> Self {
        let number = |row| u32::try_from(row).unwrap_or(u32::MAX);
        let rows = (number(rows.start), number(rows.end));
        Self { rows, ..self }
    }

    /// The file it was loaded from, as the loader has it. The program's is read from `/proc/self/exe`.
    pub(crate) fn name(&self) -> String {
        let mut found = String::new();
        first(|image, name| {
            let same = image == self;
            if same {
                found = name.to_string_lossy().into_owned();
            }
            same
        });
        if found.is_empty() && self.is_program() {
            let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
            return program.to_string_lossy().into_owned();
        }
        found
    }

    /// The program itself.
    pub(crate) fn program() -> Option<Image> {
        first(|_, _| true)
    }

    fn is_program(&self) -> bool {
        Self::program().is_some_and(|program| program == *self)
    }

    /// The address of `symbol` if this image defines it, whether or not the rest of the program can see it.
    pub(crate) fn defines(&self, symbol: &CStr) -> Option<usize> {
        let name = CString::new(if self.is_program() {
            String::new()
        } else {
            self.name()
        })
        .ok()?;
        let name = if name.is_empty() {
            std::ptr::null()
        } else {
            name.as_ptr()
        };
        // SAFETY: null (the program) or a string with its end; NOLOAD runs no constructor.
        let handle = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            return None;
        }
        // SAFETY: an open handle, a string with its end.
        let address = unsafe { libc::dlsym(handle, symbol.as_ptr()) } as usize;
        // SAFETY: closes what was opened above; whoever loaded the object still holds it.
        unsafe { libc::dlclose(handle) };
        self.segment(address).map(|_| address)
    }

    /// What it is for: by what it defines, and by its name.
    pub(crate) fn kind(&self) -> Kind {
        if self.is_program() {
            return Kind::Executable;
        }
        let defines = |(symbol, kind): &(&CStr, Kind)| {
            let address = symbol_address(symbol)?;
            self.segment(address).map(|_| *kind)
        };
        let name = self.name();
        by_name(last_part(&name))
            .or_else(|| DEFINES.iter().find_map(defines))
            .unwrap_or(Kind::Other)
    }

    /// Every loaded image with its kind.
    pub(crate) fn all() -> Vec<(Image, Kind)> {
        let mut images = Vec::new();
        first(|image, _| {
            images.push(*image);
            false
        });
        images.into_iter().map(|image| (image, image.kind())).collect()
    }
}

/// Whoever defines these is of that kind, whatever its file is called.
const DEFINES: &[(&CStr, Kind)] = &[
    (c"malloc", Kind::Allocator),
    (c"getpid", Kind::Libc),
    (c"_Unwind_ForcedUnwind", Kind::Unwinder),
    (c"__cxa_begin_catch", Kind::CxxRuntime),
];

/// The last part of a path is enough: `libc.so.6`, `libgcc_s.so.1`, `libstdc++.so.6.0.30`.
fn by_name(name: &str) -> Option<Kind> {
    const STEMS: &[(&str, Kind)] = &[
        ("linux-vdso.", Kind::Vdso),
        ("ld-linux", Kind::Loader),
        ("ld-musl", Kind::Loader),
        ("ld.so", Kind::Loader),
        ("ld-2.", Kind::Loader),
        ("libdl.", Kind::Loader),
        ("libdl-2.", Kind::Loader),
        ("libc.", Kind::Libc),
        ("libc-2.", Kind::Libc),
        ("libpthread", Kind::Libc),
        ("libgcc_s", Kind::Unwinder),
        ("libunwind", Kind::Unwinder),
        ("libjemalloc", Kind::Allocator),
        ("libmimalloc", Kind::Allocator),
        ("libtcmalloc", Kind::Allocator),
        ("libhoard", Kind::Allocator),
        ("libasan", Kind::Allocator),
        ("libstdc++", Kind::CxxRuntime),
        ("libc++", Kind::CxxRuntime),
    ];
    let stem = STEMS.iter().find(|(stem, _)| name.starts_with(stem))?;
    Some(stem.1)
}

fn last_part(path: &str) -> &str {
    Path::new(path)
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or(path)
}

/// The address that `symbol` has for the whole program.
pub(super) fn symbol_address(symbol: &CStr) -> Option<usize> {
    // SAFETY: a string with its end.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) };
    (!address.is_null()).then_some(address as usize)
}

/// The first image, in the loader's order (the program first), that `wanted` says yes to.
fn first(mut wanted: impl FnMut(&Image, &CStr) -> bool) -> Option<Image> {
    struct Search<'a> {
        wanted: &'a mut dyn FnMut(&Image, &CStr) -> bool,
        found: Option<Image>,
    }
    extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
        // SAFETY: the search passed below, which nobody else uses during the call.
        let search = unsafe { &mut *search.cast::<Search<'_>>() };
        // SAFETY: the loader passes a valid description.
        let info = unsafe { &*info };
        if info.dlpi_phdr.is_null() || info.dlpi_name.is_null() {
            return 0;
        }
        // SAFETY: as many headers as the loader says, mapped as long as the image (I1).
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        // SAFETY: the loader's strings have an end.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) };
        let image = Image::of(info.dlpi_addr as usize, headers);
        match image.filter(|image| (search.wanted)(image, name)) {
            Some(image) => {
                search.found = Some(image);
                1
            }
            None => 0,
        }
    }
    let mut search = Search {
        wanted: &mut wanted,
        found: None,
    };
    // SAFETY: `visit` has the signature, and the search outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

impl Image {
    fn of(bias: usize, headers: &'static [libc::Elf64_Phdr]) -> Option<Image> {
        let mut image = Image {
            start: usize::MAX,
            end: 0,
            bias,
            headers,
            index: &[],
            rows: (0, u32::MAX),
        };
        for (_, range) in image.segments() {
            image.start = image.start.min(range.start);
            image.end = image.end.max(range.end);
        }
        image.index = image.find_index().unwrap_or_default();
        (image.start < image.end).then_some(image)
    }
}

/// The loader's public part of its description of an object.
#[repr(C)]
struct LinkMap {
    bias: usize,
    name: *const libc::c_char,
    dynamic: usize,
}

/// `struct dl_find_object`, with room to spare for fields of later versions.
#[repr(C)]
struct Found {
    flags: u64,
    map_start: usize,
    map_end: usize,
    link_map: *const LinkMap,
    eh_frame: usize,
    reserved: [u64; 11],
}

/// glibc's `_dl_find_object` (2.35), or 0.
static FIND_OBJECT: AtomicUsize = AtomicUsize::new(0);

/// The program itself, which is never unloaded. The kernel maps it, and where it leaves holes between the segments, glibc tells of
/// one segment only.
static PROGRAM: OnceBox<Image> = OnceBox::new();

/// Looks for what [`find_now`] needs; `false` if this system has no async-signal-safe way to find an image. Called once,
/// in normal context, before the first walk.
pub(crate) fn prepare() -> bool {
    let function = symbol_address(c"_dl_find_object").unwrap_or(0);
    if let Some(program) = Image::program() {
        // Another's is the same.
        let _ = PROGRAM.set(Box::new(program));
    }
    FIND_OBJECT.store(function, Ordering::Relaxed);
    function != 0
}

/// The image that has `pc`, found without a lock. `None` too before [`prepare`], and where a library begins with something
/// else than an ELF header.
pub(crate) fn find_now(pc: usize) -> Option<Image> {
    if let Some(program) = PROGRAM.get().filter(|program| program.segment(pc).is_some()) {
        return Some(*program);
    }
    let function = FIND_OBJECT.load(Ordering::Relaxed);
    if function == 0 {
        return None;
    }
    // SAFETY: glibc's function of that name has had this signature since it exists.
    let find: extern "C" fn(usize, *mut Found) -> c_int = unsafe { std::mem::transmute(function) };
    let mut found = MaybeUninit::<Found>::zeroed();
    if find(pc, found.as_mut_ptr()) != 0 {
        return None;
    }
    // SAFETY: all fields are numbers or pointers, for which zero is a value, and the loader has filled some in.
    let found = unsafe { found.assume_init() };
    // SAFETY: the loader's description of an object that is loaded (I1); its first field never changes.
    let bias = unsafe { (*found.link_map).bias };
    let image = Image::of(bias, headers_at(found.map_start)?)?;
    image.segment(pc).map(|_| image)
}

/// The program headers of the image whose first page is at `start`, if they lie in that page, as linkers place them.
fn headers_at(start: usize) -> Option<&'static [libc::Elf64_Phdr]> {
    const PAGE: usize = 4096;
    if start == 0 || !start.is_multiple_of(PAGE) {
        return None;
    }
    // SAFETY: the first page of a loaded object; x86-64 and aarch64 programs have no code that cannot be read but for
    // those who ask the linker for it, and they begin with a segment of their own for the headers.
    let header = unsafe { &*(start as *const libc::Elf64_Ehdr) };
    let offset = header.e_phoff as usize;
    let size = usize::from(header.e_phnum) * size_of::<libc::Elf64_Phdr>();
    let fits = usize::from(header.e_phentsize) == size_of::<libc::Elf64_Phdr>()
        && offset.is_multiple_of(align_of::<libc::Elf64_Phdr>())
        && offset.checked_add(size).is_some_and(|end| end <= PAGE);
    if !header.e_ident.starts_with(b"\x7fELF\x02") || !fits {
        return None;
    }
    let headers = start.checked_add(offset)? as *const libc::Elf64_Phdr;
    // SAFETY: inside the page, aligned, and constant while the object is loaded (I1).
    Some(unsafe { std::slice::from_raw_parts(headers, usize::from(header.e_phnum)) })
}

#[cfg(test)]
mod tests;
