//! Where a C library's functions lie in this program, which is linked with it.
//!
//! The rung *abandon* leaves code only where it was allowed to. A shared library is one module; a static one is a range of
//! this program's text, from a first to a last function. Many of these are `static` in C and have no name that Rust could
//! take the address of, so that the program's own symbol table is asked.

use std::fs;
use std::io;

use object::{Object, ObjectSymbol, SymbolKind};
use throwto::foreign::{Module, ModuleError};

/// The code of these C source files, the first of which defines `function` at `address`. Should the library be a shared
/// one here, all of it.
pub fn modules(files: &[&str], function: &str, address: *const ()) -> io::Result<Vec<Module>> {
    match Module::of(address) {
        Err(ModuleError::Executable) => {}
        found => return Ok(vec![found.map_err(unsupported)?]),
    }
    let program = fs::read(std::env::current_exe()?)?;
    let program = object::File::parse(&*program).map_err(io::Error::other)?;
    let Some(defined) = program.symbols().find(|symbol| symbol.name() == Ok(function)) else {
        return Err(unsupported("this program has no symbol table: it is stripped"));
    };
    let moved_by = (address.addr() as u64).wrapping_sub(defined.address());
    let here = |linked: u64| address.with_addr(linked.wrapping_add(moved_by) as usize);
    let range = |file: &&str| {
        let mut functions = functions_of(&program, file);
        if *file == files[0] {
            functions.push(defined.address());
        }
        let (first, last) = functions
            .iter()
            .min()
            .zip(functions.iter().max())
            .ok_or_else(|| unsupported(format!("the symbol table knows no {file}")))?;
        Module::from_symbols(here(*first), here(*last)).map_err(unsupported)
    };
    files.iter().map(range).collect()
}

/// The functions that only `file` sees: they follow its name in the table.
fn functions_of(program: &object::File<'_>, file: &str) -> Vec<u64> {
    let mut inside = false;
    let of_this_file = program.symbols().filter(|symbol| {
        if symbol.kind() == SymbolKind::File {
            inside = symbol.name() == Ok(file);
        }
        inside && symbol.is_local() && symbol.kind() == SymbolKind::Text
    });
    of_this_file.map(|symbol| symbol.address()).collect()
}

/// The case is skipped, with this reason.
fn unsupported(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, reason.to_string())
}
