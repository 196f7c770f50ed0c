//! Device memory: freed rooms are kept and handed out again, because a training step asks for the same sizes every time.
//!
//! All work of a device goes through one stream, so memory may be reused as soon as the host has let go of it.

use super::context::Device;
use super::driver::Driver;
use super::graph::Reserved;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A piece of device memory; goes back to the pool when dropped.
pub struct Memory {
    device: Arc<Device>,
    address: u64,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(device: Arc<Device>, address: u64, bytes: usize) -> Self {
        Memory { device, address, bytes }
    }
    /// Where it starts, as kernels see it.
    pub fn address(&self) -> u64 {
        self.address
    }
    /// Its size as it was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// The device it belongs to.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.give_back(self.address, self.bytes);
    }
}

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In use now.
    pub current: usize,
    /// The most that was in use at once.
    pub peak: usize,
    /// Freed but kept for reuse.
    pub kept: usize,
}

#[derive(Default)]
pub(super) struct Pool(Mutex<Rooms>);

#[derive(Default)]
pub(super) struct Rooms {
    idle: HashMap<usize, Vec<u64>>,
    usage: Usage,
    /// Memory of the recording that is under way.
    capture: Option<Reserved>,
}

/// Rooms waste at most an eighth, so that sizes that differ a little share them.
fn room(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 8).max(256);
    bytes.max(1).next_multiple_of(step)
}

impl Pool {
    pub fn alloc(&self, driver: &Driver, bytes: usize) -> Result<u64> {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = if driver.pools() { room(bytes) } else { bytes };
        if let Some(address) = rooms.capture.as_mut().filter(|_| driver.pools()).and_then(|own| own.reuse(wanted)) {
            return Ok(address);
        }
        let address = match rooms.idle.get_mut(&wanted).and_then(Vec::pop) {
            Some(address) => {
                rooms.usage.kept -= wanted;
                address
            }
            None if rooms.capture.is_some() && driver.pools() => {
                let message =
                    format!("{bytes} bytes had to be allocated during the recording of a step on {}", driver.name());
                return Err(Error::Device(message));
            }
            None => match driver.alloc(wanted)? {
                Some(address) => address,
                None => {
                    rooms.release(driver)?;
                    driver.alloc(wanted)?.ok_or_else(|| out_of_memory(driver, bytes, rooms.usage))?
                }
            },
        };
        if let Some(own) = &mut rooms.capture {
            own.take(address);
        }
        rooms.usage.current += wanted;
        rooms.usage.peak = rooms.usage.peak.max(rooms.usage.current);
        Ok(address)
    }

    pub fn free(&self, driver: &Driver, address: u64, bytes: usize) {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let size = if driver.pools() { room(bytes) } else { bytes };
        match &mut rooms.capture {
            Some(own) => own.give(address, size),
            None => rooms.give(driver, address, size),
        }
    }

    /// From here on memory is taken for a recording.
    pub fn begin_capture(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).capture = Some(Reserved::default());
    }
    /// What the recording has taken.
    pub fn end_capture(&self) -> Reserved {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).capture.take().unwrap_or_default()
    }
    /// Takes the memory of a recording back.
    pub fn give_up(&self, driver: &Driver, mut own: Reserved) {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        own.drain().into_iter().for_each(|(size, address)| rooms.give(driver, address, size));
    }

    /// Gives kept memory back to the driver.
    pub fn trim(&self, driver: &Driver) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).release(driver)
    }

    pub fn usage(&self) -> Usage {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).usage
    }
}

impl Rooms {
    fn give(&mut self, driver: &Driver, address: u64, size: usize) {
        self.usage.current -= size;
        if driver.pools() {
            self.usage.kept += size;
            self.idle.entry(size).or_default().push(address);
        } else if let Err(e) = driver.free(address) {
            debug_assert!(false, "{e}"); // a destructor has nobody to tell
        }
    }
    fn release(&mut self, driver: &Driver) -> Result<()> {
        driver.synchronize()?;
        self.usage.kept = 0;
        self.idle.drain().flat_map(|(_, all)| all).try_for_each(|address| driver.free(address))
    }
}

fn out_of_memory(driver: &Driver, bytes: usize, usage: Usage) -> Error {
    let (free, total) = driver.memory();
    let mib = |n: usize| n.div_ceil(1 << 20);
    Error::Device(format!(
        "{}: out of memory: {} MiB wanted, {} MiB in use here, {} of {} MiB free; try a smaller batch (--set train.batch=..) or \
         close other programs on this device",
        driver.name(),
        mib(bytes),
        mib(usage.current),
        mib(free),
        mib(total),
    ))
}

#[cfg(test)]
mod tests {
    use super::room;

    #[test]
    fn rooms_hold_what_is_asked_and_waste_little() {
        for bytes in (0..100_000).step_by(37).chain([1 << 20, (1 << 20) + 1, 123_456_789]) {
            let room = room(bytes);
            assert!(room >= bytes && room.is_multiple_of(256), "{bytes} in {room}");
            assert!(room <= bytes + (bytes / 4).max(256), "{bytes} in {room}");
        }
    }
}
