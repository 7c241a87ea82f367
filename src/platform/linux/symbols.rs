//! Names of functions, and which of the program's code is Rust.
//!
//! Owns: the symbol table of the file that this code is in, read once; names for reports. It is called the program's here. Leaves to [`super::image`]: which image an address
//! is in. To its users: what follows from a name.
//!
//! **Signal context:** yes for [`RustText::contains`] and [`Personalities::of`]; no for everything else, which opens files
//! and allocates.
//!
//! A function is Rust if its symbol is mangled as rustc does it. `#[no_mangle]` functions are not seen, and nothing is in a
//! stripped program, which [`RustText::known`] tells.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

use object::NativeEndian;
use object::elf::{FileHeader64, SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB, STT_FUNC, Sym64};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use once_cell::race::OnceBox;

use super::image::{Image, symbol_address};

type Header = FileHeader64<NativeEndian>;

/// Functions of Rust no further apart than this are taken for one stretch: what lies between is padding.
const PADDING: usize = 16;

/// Where the program's Rust functions are.
#[derive(Debug)]
pub(crate) struct RustText {
    /// Sorted, apart from each other.
    ranges: Vec<Range<usize>>,
    /// `rust_eh_personality`.
    personality: Option<usize>,
    /// `false` where there is no symbol table to tell.
    pub(crate) known: bool,
}

static RUST_TEXT: OnceBox<RustText> = OnceBox::new();

/// Reads the program's symbol table at the first call.
pub(crate) fn rust_text() -> &'static RustText {
    RUST_TEXT.get_or_init(|| {
        let read = Program::open().and_then(|program| RustText::read(&program));
        Box::new(read.unwrap_or(RustText::UNKNOWN))
    })
}

impl RustText {
    /// What a stripped program tells.
    pub(super) const UNKNOWN: Self = Self {
        ranges: Vec::new(),
        personality: None,
        known: false,
    };

    /// Whether `pc` is in a Rust function of the program.
    pub(crate) fn contains(&self, pc: usize) -> bool {
        let behind = self.ranges.partition_point(|range| range.start <= pc);
        let last = behind.checked_sub(1).and_then(|at| self.ranges.get(at));
        last.is_some_and(|range| pc < range.end)
    }

    fn read(program: &Program) -> Option<Self> {
        let table = program.table()?;
        let mut functions = Vec::new();
        let mut personality = None;
        for function in program.functions(&table) {
            let name = function.name();
            if name == b"rust_eh_personality" {
                personality = Some(function.range.start);
            }
            functions.push((function.range, is_rust(name)));
        }
        functions.sort_unstable_by_key(|(range, _)| range.start);
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut after_rust = false;
        for (range, rust) in functions {
            match ranges.last_mut() {
                _ if !rust => {}
                Some(last) if after_rust && range.start <= last.end.saturating_add(PADDING) => {
                    last.end = last.end.max(range.end);
                }
                _ => ranges.push(range),
            }
            after_rust = rust;
        }
        Some(Self {
            known: !ranges.is_empty(),
            ranges,
            personality,
        })
    }
}

/// The file that an image was loaded from, in memory.
struct Program {
    bytes: &'static [u8],
    image: Image,
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`; what borrows from it borrows from `self`.
        unsafe { libc::munmap(self.bytes.as_ptr() as *mut libc::c_void, self.bytes.len()) };
    }
}

struct Function<'a> {
    range: Range<usize>,
    /// The string table from the name on.
    name: &'a [u8],
}

impl<'a> Function<'a> {
    /// `CStr` finds the end in the standard library's own code, which is optimised in every build.
    fn name(&self) -> &'a [u8] {
        CStr::from_bytes_until_nul(self.name).map_or(&[], CStr::to_bytes)
    }
}

/// The symbols, and the strings that they name by offset.
struct Table<'a> {
    symbols: &'a [Sym64<NativeEndian>],
    strings: &'a [u8],
}

impl Program {
    /// The file that this code is in: the program, or a library written in Rust inside a foreign program.
    fn open() -> Option<Self> {
        Self::of(Image::containing(is_rust as *const () as usize)?)
    }

    fn of(image: Image) -> Option<Self> {
        let file = if Image::program() == Some(image) {
            File::open("/proc/self/exe")
        } else {
            File::open(image.name())
        };
        let file = file.ok()?;
        let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
        // SAFETY: a new mapping of our own, read only.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: mapped until `drop`; the kernel lets nobody write to or shorten a file that is being executed, and who
        // does it to a library in use breaks the library's own code as well.
        let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, length) };
        Some(Self { bytes, image })
    }

    fn table(&self) -> Option<Table<'_>> {
        self.table_of(SHT_SYMTAB)
    }

    fn table_of(&self, kind: u32) -> Option<Table<'_>> {
        let header = Header::parse(self.bytes).ok()?;
        let sections = header.sections(NativeEndian, self.bytes).ok()?;
        let table = sections.symbols(NativeEndian, self.bytes, kind).ok()?;
        let strings = sections.section(table.string_section()).ok()?;
        Some(Table {
            symbols: table.symbols(),
            strings: strings.data(NativeEndian, self.bytes).ok()?,
        })
    }

    /// The functions that are defined in the program.
    fn functions<'a>(&self, table: &Table<'a>) -> impl Iterator<Item = Function<'a>> + use<'a> {
        let bias = self.image.bias();
        let strings = table.strings;
        let defined = |symbol: &&Sym64<NativeEndian>| {
            symbol.st_type() == STT_FUNC && symbol.st_shndx(NativeEndian) != SHN_UNDEF
        };
        table.symbols.iter().filter(defined).map(move |symbol| {
            let start = bias.wrapping_add(symbol.st_value(NativeEndian) as usize);
            Function {
                range: start..start.saturating_add(symbol.st_size(NativeEndian) as usize),
                name: strings
                    .get(symbol.st_name(NativeEndian) as usize..)
                    .unwrap_or_default(),
            }
        })
    }
}

/// Whether rustc has given a function this name.
fn is_rust(symbol: &[u8]) -> bool {
    const OF_THE_RUNTIME: [&[u8]; 3] = [b"rust_eh_personality", b"rust_begin_unwind", b"rust_panic"];
    match symbol {
        [b'_', b'R', kind, ..] => b"CMXYNIB0123456789".contains(kind),
        [b'_', b'Z', b'N', ..] => has_legacy_hash(symbol),
        [b'_', b'_', b'r', b'u', b's', b't', b'_', ..] => true,
        _ => OF_THE_RUNTIME.contains(&symbol),
    }
}

/// `..17h`, sixteen hexadecimal digits, `E`, and perhaps what LLVM has added behind a dot.
fn has_legacy_hash(symbol: &[u8]) -> bool {
    const HASH: usize = "17h0123456789abcdefE".len();
    let is_hash = |part: &[u8]| {
        part.starts_with(b"17h")
            && part.ends_with(b"E")
            && part[3..HASH - 1].iter().all(u8::is_ascii_hexdigit)
    };
    let Some(tail) = symbol.len().checked_sub(HASH) else {
        return false;
    };
    is_hash(&symbol[tail..])
        || (0..tail).any(|at| symbol[at + HASH] == b'.' && is_hash(&symbol[at..at + HASH]))
}

fn readable(symbol: &[u8]) -> String {
    format!("{:#}", rustc_demangle::demangle(&String::from_utf8_lossy(symbol)))
}

/// The first Rust function that has code in `range`.
pub(crate) fn rust_inside(range: Range<usize>) -> Option<String> {
    let program = Program::open()?;
    let table = program.table()?;
    let inside = |function: &Function<'_>| {
        function.range.start < range.end && range.start < function.range.end && is_rust(function.name())
    };
    let found = program.functions(&table).filter(inside);
    let lowest = found.min_by_key(|function| function.range.start)?;
    Some(readable(lowest.name()))
}

/// For people: `function+0x12 in libfoo.so`.
///
/// Read from the files themselves: `dladdr` waits for the loader's lock, which the very thread that is reported on may hold.
pub(crate) fn name(pc: usize) -> String {
    let Some(image) = Image::containing(pc) else {
        return format!("{pc:#x} in no image");
    };
    let path = image.name();
    let file = path.rsplit('/').next().unwrap_or(&path);
    match function_at(image, pc) {
        Some((function, 0)) => format!("{function} in {file}"),
        Some((function, offset)) => format!("{function}+{offset:#x} in {file}"),
        None => format!("{:#x} in {file}", pc.wrapping_sub(image.bias())),
    }
}

/// By all the names that the file has, or, if it is stripped, by those that it exports.
fn function_at(image: Image, pc: usize) -> Option<(String, usize)> {
    let program = Program::of(image)?;
    // A function written in assembly may not say how long it is.
    let holds = |range: &Range<usize>| range.contains(&pc) || range.start == pc;
    [SHT_SYMTAB, SHT_DYNSYM].into_iter().find_map(|kind| {
        let table = program.table_of(kind)?;
        let function = program
            .functions(&table)
            .find(|function| holds(&function.range))?;
        Some((readable(function.name()), pc - function.range.start))
    })
}

/// Whose rules a frame's language-specific data follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Personality {
    Rust,
    /// `__attribute__((cleanup))`: cleanups only.
    C,
    Cxx,
}

/// The addresses of the personalities, found once in normal context.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Personalities {
    pub(super) rust: Option<usize>,
    pub(super) c: Option<usize>,
    pub(super) cxx: Option<usize>,
}

impl Personalities {
    /// Looks for them in what is loaded now.
    pub(crate) fn look() -> Self {
        let anywhere = |symbol: &CStr| {
            symbol_address(symbol)
                .or_else(|| Image::all().iter().find_map(|(image, _)| image.defines(symbol)))
        };
        Self {
            rust: rust_text().personality,
            c: anywhere(c"__gcc_personality_v0"),
            cxx: anywhere(c"__gxx_personality_v0"),
        }
    }

    pub(crate) fn of(&self, address: usize) -> Option<Personality> {
        let address = Some(address);
        if address == self.rust {
            Some(Personality::Rust)
        } else if address == self.cxx {
            Some(Personality::Cxx)
        } else if address == self.c {
            Some(Personality::C)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
