//! Code that a call may be abandoned in: a loaded library, or a range of the executable.
//!
//! Owns: [`Module`], and what may not be one. Leaves to `image` finding objects, to `symbols` their functions.
//!
//! **Signal context:** [`Module::has`] and [`Module::image`], yes. Making one, no.
//!
//! - I1. The object that a module names is never unloaded: it is opened once more with `RTLD_NODELETE`.

use std::ffi::CString;
use std::ops::Range;

use super::image::{Image, Kind};
use super::{frames, symbols};
use crate::platform::spot::NoModule;

/// A range of code in one object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    image: Image,
    start: usize,
    end: usize,
}

impl Module {
    pub(crate) fn loaded(name: &str) -> Result<Self, NoModule> {
        Self::whole(Image::loaded(name).ok_or(NoModule::NotLoaded)?)
    }

    pub(crate) fn of(address: usize) -> Result<Self, NoModule> {
        Self::whole(Image::containing(address).ok_or(NoModule::NotLoaded)?)
    }

    fn whole(image: Image) -> Result<Self, NoModule> {
        match image.kind() {
            Kind::Other => {}
            Kind::Executable => return Err(NoModule::Executable),
            _ => return Err(NoModule::Never { name: image.name() }),
        }
        Self::checked(image, image.range())
    }

    pub(crate) fn between(first: usize, last: usize) -> Result<Self, NoModule> {
        let image = Image::containing(first).ok_or(NoModule::NotLoaded)?;
        if !matches!(image.kind(), Kind::Executable | Kind::Other) {
            return Err(NoModule::Never { name: image.name() });
        }
        let inside = image.code(first).is_some_and(|code| code.contains(&last));
        if last < first || !inside {
            return Err(NoModule::NoRange);
        }
        let no_description = || NoModule::NoDescription { name: image.name() };
        let end = frames::function_around(&image, last)
            .ok_or_else(no_description)?
            .end;
        if let Some(symbol) = symbols::rust_inside(first..end) {
            return Err(NoModule::RustInside { symbol });
        }
        Self::checked(image, first..end)
    }

    fn checked(image: Image, code: Range<usize>) -> Result<Self, NoModule> {
        if image.frame_index().is_none() {
            return Err(NoModule::NoDescription { name: image.name() });
        }
        keep(&image);
        let image = frames::narrowed(image, code.clone());
        let Range { start, end } = code;
        Ok(Self { image, start, end })
    }

    pub(crate) fn has(&self, pc: usize) -> bool {
        (self.start..self.end).contains(&pc)
    }

    pub(crate) fn image(&self) -> Image {
        self.image
    }
}

/// I1. The program itself is never unloaded, and has no name to open.
fn keep(image: &Image) {
    if let Ok(name) = CString::new(image.name())
        && image.kind() != Kind::Executable
    {
        Image::keep(&name);
    }
}

#[cfg(test)]
mod tests;
