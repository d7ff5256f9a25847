//! Hashes of changes: 128 bits, keyed with a random number of the checkpoint, so that nobody can craft two ids of one hash.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::change::Change;
use crate::checkpoint::store::ChangeHash;
use crate::position::PartitionId;

/// Hashes a change's identity: scope, key and id. Copies of a change have one hash; one id under two keys has two.
#[derive(Clone, Debug)]
pub struct ChangeHasher {
    keyed: SipHasher13,
    /// Whether ids are unique across partitions (declared), or only within one.
    global_ids: Vec<bool>,
}

impl ChangeHasher {
    /// A hasher under the checkpoint's `state_id`; `global_ids` says by partition whether ids hold beyond it.
    pub fn new(state_id: u128, global_ids: Vec<bool>) -> Self {
        ChangeHasher { keyed: SipHasher13::new_with_keys(state_id as u64, (state_id >> 64) as u64), global_ids }
    }

    /// The hash of a change.
    pub fn hash(&self, change: &Change) -> ChangeHash {
        let partition: PartitionId = change.position().partition;
        let scope = if self.global_ids.get(partition as usize).copied().unwrap_or(false) { u32::MAX } else { partition };
        let mut hasher = self.keyed;
        let (key, id) = (change.key_bytes(), change.id_bytes());
        // The lengths keep "ab" + "c" apart from "a" + "bc".
        hasher.write_u64(u64::from(scope) << 32 | key.len() as u64);
        hasher.write(key);
        hasher.write(id);
        hasher.finish128().as_u128()
    }
}
