//! The registers of one frame, as far as they are known.
//!
//! Owns: [`Registers`]. Their numbers are DWARF's; which is which says `dwarf`.
//!
//! **Signal context:** yes: plain values, no indexing that can fail.

use super::dwarf::{PC, REGISTERS};

/// Callers' registers become known by what callees saved; a register that nobody saved stays as it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers([Option<u64>; REGISTERS]);

impl Registers {
    pub(crate) fn all(values: [u64; REGISTERS]) -> Self {
        Self(values.map(Some))
    }

    pub(crate) fn get(&self, register: u16) -> Option<u64> {
        self.0.get(usize::from(register)).copied().flatten()
    }

    /// Registers beyond the general ones are not kept: no frame is found by them.
    pub(crate) fn set(&mut self, register: u16, value: Option<u64>) {
        if let Some(place) = self.0.get_mut(usize::from(register)) {
            *place = value;
        }
    }

    pub(crate) fn pc(&self) -> Option<u64> {
        self.get(PC)
    }
}
