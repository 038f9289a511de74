//! Memory of blocks that is used again: a free list, one for the process.
//!
//! Blocks come and go at a thousand a second, of up to a megabyte each, and are dropped on other threads than the
//! one that made them. Given back to the system and asked for again, each page of them costs a fault and is cleared:
//! a fifth of what a record took. So long buffers are kept, at most [`SPARE_MAX`]; short ones are the
//! allocator's business.

use crate::block::BLOCK_BYTES_MAX;
use bytes::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most buffers that are kept while nobody uses them.
const SPARE_MAX: usize = 8;
/// The shortest buffer that is worth keeping, in bytes.
const LONG_BYTES: usize = 64 * 1024;
/// The longest that is kept, in bytes: what a block may have taken while it grew.
const LONG_BYTES_MAX: usize = 2 * BLOCK_BYTES_MAX;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// An empty buffer, which may have room already.
pub fn take() -> Vec<u8> {
    spare().pop().unwrap_or_default()
}

/// An empty buffer with room for `bytes`, and not much more.
pub fn take_for(bytes: usize) -> Vec<u8> {
    let mut spare = spare();
    let fit = spare.iter().position(|buffer| buffer.capacity() >= bytes && fits(buffer.capacity(), bytes));
    fit.map_or_else(|| Vec::with_capacity(bytes), |at| spare.swap_remove(at))
}

/// What a buffer holds. Its memory is used again once the last copy is dropped; or at once, if the buffer has much more
/// room than it needs: then the bytes are copied, so that they never hold more than a third beside themselves.
pub fn freeze(buffer: Vec<u8>) -> Bytes {
    if buffer.len() < LONG_BYTES || !fits(buffer.capacity(), buffer.len()) {
        let bytes = Bytes::copy_from_slice(&buffer);
        give(buffer);
        return bytes;
    }
    Bytes::from_owner(Pooled(buffer))
}

/// A copy of bytes.
pub fn copy(bytes: &[u8]) -> Bytes {
    if bytes.len() < LONG_BYTES {
        return Bytes::copy_from_slice(bytes);
    }
    let mut buffer = take_for(bytes.len());
    buffer.extend_from_slice(bytes);
    freeze(buffer)
}

fn fits(capacity: usize, bytes: usize) -> bool {
    capacity / 4 * 3 <= bytes
}

/// Takes a buffer back.
pub fn give(mut buffer: Vec<u8>) {
    if !(LONG_BYTES..=LONG_BYTES_MAX).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    let mut spare = spare();
    if spare.len() < SPARE_MAX {
        spare.push(buffer);
    }
}

fn spare() -> MutexGuard<'static, Vec<Vec<u8>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Pooled(Vec<u8>);

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_never_holds_much_more_than_it_needs() {
        for length in [0, 1, LONG_BYTES - 1, LONG_BYTES, 1 << 20, 4 << 20] {
            let wanted: Vec<u8> = (0..length).map(|at| at as u8).collect();
            // Beside other tests, and after other lengths.
            for _ in 0..2 * SPARE_MAX {
                assert_eq!(copy(&wanted), wanted);
                let mut buffer = take();
                assert!(buffer.is_empty());
                buffer.extend_from_slice(&wanted);
                let bytes = freeze(buffer);
                let slice = bytes.slice(length / 2..);
                drop(bytes);
                assert_eq!(slice, wanted[length / 2..]);
            }
        }
        assert!(
            spare().len() <= SPARE_MAX
                && spare().iter().all(|buffer| (LONG_BYTES..=LONG_BYTES_MAX).contains(&buffer.capacity()))
        );
    }
}
