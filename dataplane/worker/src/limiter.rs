//! Memory of one instance: all its linear memories and tables together.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use crate::meter::Meter;

/// Elements of all tables of an instance.
const TABLE_ELEMENTS_MAX: usize = 200_000;

pub(crate) struct Limiter {
    bytes_max: usize,
    bytes: usize,
    elements: usize,
    meter: Arc<Meter>,
}

impl Limiter {
    pub(crate) fn new(bytes_max: u64, meter: Arc<Meter>) -> Self {
        Self { bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX), bytes: 0, elements: 0, meter }
    }

    /// What is denied from now on is denied to the call of this meter.
    pub(crate) fn meter_by(&mut self, meter: &Arc<Meter>) {
        self.meter.clone_from(meter);
    }

    /// What its memories have room for by now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory never shrinks: what one call took is gone for the next.
    pub(crate) fn is_half_used(&self) -> bool {
        self.bytes > self.bytes_max / 2 || self.elements > TABLE_ELEMENTS_MAX / 2
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.bytes.saturating_add(desired.saturating_sub(current));
        if total > self.bytes_max {
            self.meter.memory_denied();
            return Ok(false);
        }
        self.bytes = total;
        Ok(true)
    }

    /// The engine could not grow what was allowed: larger than the pool's slots.
    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.meter.memory_denied();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.elements.saturating_add(desired.saturating_sub(current));
        if total > TABLE_ELEMENTS_MAX {
            self.meter.memory_denied();
            return Ok(false);
        }
        self.elements = total;
        Ok(true)
    }
}
