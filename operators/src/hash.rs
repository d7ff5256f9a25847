//! Hashes of changes: 128 bits, keyed with a random number of the checkpoint, so that nobody can craft two ids of one hash.

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::change::Change;
use crate::checkpoint::store::ChangeHash;
use crate::position::PartitionId;

/// Hashes a change's identity: scope, key and id. Copies of a change have one hash; one id under two keys has two.
#[derive(Clone, Debug)]
pub struct ChangeHasher {
    keyed: SipHasher13,
    state_id: u128,
    /// Whether ids are unique across partitions (declared), or only within one.
    global_ids: Arc<[AtomicBool]>,
}

/// Partitions that may come in one run, beyond those there are at its start.
pub const NEW_PARTITIONS_MAX: usize = 65_536;

impl ChangeHasher {
    /// A hasher under the checkpoint's `state_id`; `global_ids` says by partition whether ids hold beyond it.
    pub fn new(state_id: u128, global_ids: Vec<bool>) -> Self {
        let room = std::iter::repeat_n(false, NEW_PARTITIONS_MAX);
        let global_ids = global_ids.into_iter().chain(room).map(AtomicBool::new).collect();
        let keyed = SipHasher13::new_with_keys(state_id as u64, (state_id >> 64) as u64);
        ChangeHasher { keyed, state_id, global_ids }
    }

    /// The random number of the checkpoint that every hash is keyed with.
    pub fn state_id(&self) -> u128 {
        self.state_id
    }

    /// A number for something of this name that belongs to the checkpoint: another one for every checkpoint, and nothing of `state_id` can be
    /// told from it.
    pub fn tag(&self, name: &str) -> u64 {
        let mut hasher = self.keyed;
        hasher.write_u64(u64::MAX);
        hasher.write(name.as_bytes());
        hasher.finish128().as_u128() as u64
    }

    /// Declares of a partition that is new whether its ids hold beyond it. `false`: there is no room for one more in this run.
    pub fn add_partition(&self, partition: PartitionId, global: bool) -> bool {
        let known = self.global_ids.get(partition as usize);
        known.inspect(|known| known.store(global, Ordering::Release)).is_some()
    }

    /// The hash of a change.
    pub fn hash(&self, change: &Change) -> ChangeHash {
        let partition: PartitionId = change.position().partition;
        let scope = if self.global_ids.get(partition as usize).is_some_and(|global| global.load(Ordering::Relaxed)) {
            u32::MAX
        } else {
            partition
        };
        let mut hasher = self.keyed;
        let (key, id) = (change.key_bytes(), change.id_bytes());
        // The lengths keep "ab" + "c" apart from "a" + "bc".
        hasher.write_u64(u64::from(scope) << 32 | key.len() as u64);
        hasher.write(key);
        hasher.write(id);
        hasher.finish128().as_u128()
    }
}
