//! Chains that a worker has taken from its queue beforehand, so that one request may fill
//! several of them (virtio 1.2, 5.1.6.4: mergeable receive buffers).
//!
//! They stay here until they are used, over any number of requests: each is walked and checked
//! once. A driver that resets its device never hears of them again.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, VolatileSlice};

use crate::virtio::Memory;
use crate::virtio::chain::{Buffers, Malformed};

/// Most slices at a time: what one call of the kernel's takes (`IOV_MAX`), and one less.
pub const MOST_SLICES: usize = 1023;

/// The chains, in the order in which the driver made them available.
#[derive(Default)]
pub struct Room<'m> {
    chains: VecDeque<Chain>,
    /// Of all chains, in order.
    slices: Vec<VolatileSlice<'m>>,
    bytes: u64,
    full: bool,
}

/// One of them.
struct Chain {
    head: u16,
    bytes: u64,
    slices: usize,
}

/// A chain to give back: its head, and how many of its bytes are filled.
pub(super) type Used = (u16, u32);

impl<'m> Room<'m> {
    /// Whether there is no chain.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Whether there will never be more, until something is used.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Bytes of all chains.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where they are, at most [`MOST_SLICES`].
    pub fn slices(&self) -> &[VolatileSlice<'m>] {
        &self.slices
    }

    /// How many chains a request of so many bytes fills.
    pub fn count(&self, bytes: u64) -> u16 {
        let mut rest = bytes;
        let fills = |chain: &&Chain| {
            let takes = rest > 0;
            rest = rest.saturating_sub(chain.bytes);
            takes
        };
        u16::try_from(self.chains.iter().take_while(fills).count()).unwrap_or(u16::MAX)
    }

    /// Copies `data` over the bytes from `start` on.
    ///
    /// # Errors
    /// There are not so many.
    pub fn write(&self, start: u64, data: &[u8]) -> Result<(), Malformed> {
        let (mut skip, mut rest) = (usize::try_from(start).map_err(|_| Malformed::Short)?, data);
        for slice in &self.slices {
            if rest.is_empty() {
                break;
            }
            let here = slice.len().saturating_sub(skip).min(rest.len());
            let (head, tail) = rest.split_at(here);
            if !head.is_empty() {
                slice.write_slice(head, skip).map_err(|_| Malformed::Outside)?;
            }
            skip = skip.saturating_sub(slice.len());
            rest = tail;
        }
        if rest.is_empty() { Ok(()) } else { Err(Malformed::Short) }
    }

    /// Takes chains from `queue` until there are `want` bytes, the driver has no more, or no more
    /// can be had; how many that were. Those that make no sense go to `refused`.
    pub(super) fn gather(
        &mut self,
        (memory, queue): (&'m Memory, &mut Queue),
        want: u64,
        refused: &mut Vec<Used>,
    ) -> Result<usize, Error> {
        let before = self.chains.len();
        // As many as the ring has at a time: a driver may add some meanwhile, or say so.
        for _ in 0..queue.size() {
            self.full = self.chains.len() >= queue.size().into();
            if self.bytes >= want || self.full {
                break;
            }
            let Some(chain) = queue.iter(memory)?.next() else { break };
            let head = chain.head_index();
            if head >= queue.size() {
                return Err(Error::InvalidDescriptorIndex);
            }
            let buffers = Buffers::collect(memory, chain, queue.size());
            match buffers.and_then(|buffers| buffers.writable.slices()) {
                Ok(slices) if slices.is_empty() || slices.len() > MOST_SLICES => {
                    refused.push((head, 0));
                }
                Ok(slices) if self.slices.len() + slices.len() > MOST_SLICES => {
                    queue.set_next_avail(queue.next_avail().wrapping_sub(1));
                    self.full = true;
                    break;
                }
                Ok(slices) => self.add(head, slices),
                Err(_) => refused.push((head, 0)),
            }
        }
        self.full |= self.chains.len() >= queue.size().into();
        Ok(self.chains.len() - before)
    }

    fn add(&mut self, head: u16, slices: Vec<VolatileSlice<'m>>) {
        let bytes = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        self.chains.push_back(Chain { head, bytes, slices: slices.len() });
        self.slices.extend(slices);
    }

    /// The chains that a request of so many bytes has filled, the first one in any case.
    pub(super) fn take(&mut self, bytes: u32) -> Vec<Used> {
        let (mut used, mut slices, mut rest) = (Vec::new(), 0, u64::from(bytes));
        while (rest > 0 || used.is_empty())
            && let Some(chain) = self.chains.pop_front()
        {
            let filled = rest.min(chain.bytes);
            rest -= filled;
            slices += chain.slices;
            self.bytes = self.bytes.saturating_sub(chain.bytes);
            used.push((chain.head, u32::try_from(filled).unwrap_or(u32::MAX)));
        }
        self.slices.drain(..slices);
        self.full = false;
        used
    }
}

/// Gives all of `used` back to the driver at once: it must not find some chains of a request
/// without the others. Whether it wants to be told (2.7.7.2).
pub(super) fn publish(queue: &mut Queue, memory: &Memory, used: &[Used]) -> Result<bool, Error> {
    const INDEX: u64 = 2;
    const ENTRIES: u64 = 4;
    let place = |base: u64, offset: u64| {
        base.checked_add(offset).map(GuestAddress).ok_or(Error::AddressOverflow)
    };
    let old = queue.next_used();
    for (number, (head, filled)) in (0_u16..).zip(used) {
        let entry = u64::from(old.wrapping_add(number) % queue.size());
        // A doubleword each, the head first (2.7.8).
        let element = u64::from(*head) | u64::from(*filled) << 32;
        let at = place(queue.used_ring(), ENTRIES + 8 * entry)?;
        memory.write_obj(element.to_le(), at).map_err(Error::GuestMemory)?;
    }
    let count = u16::try_from(used.len()).map_err(|_| Error::InvalidDescriptorIndex)?;
    let new = old.wrapping_add(count);
    queue.set_next_used(new);
    let at = place(queue.used_ring(), INDEX)?;
    memory.store(new.to_le(), at, Ordering::Release).map_err(Error::GuestMemory)?;
    if !queue.event_idx_enabled() {
        return Ok(true);
    }
    // The driver writes the event, then reads the index; here it is the other way round.
    fence(Ordering::SeqCst);
    let at = place(queue.avail_ring(), ENTRIES + 2 * u64::from(queue.size()))?;
    let event: u16 = memory.load(at, Ordering::Relaxed).map_err(Error::GuestMemory)?;
    let since = new.wrapping_sub(u16::from_le(event)).wrapping_sub(1);
    Ok(since < new.wrapping_sub(old))
}

#[cfg(test)]
mod tests;
