//! What must be one per process and is made by whoever names it first: found by type and name.

use std::any::{Any, TypeId};
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

/// Things by type and name.
#[derive(Default)]
pub struct Registry(Mutex<HashMap<(TypeId, String), Arc<dyn Any + Send + Sync>>>);

impl Registry {
    /// The thing of this type and name, made if there is none.
    pub fn get_or_make<T: Any + Send + Sync>(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut things = self.0.lock();
        let thing = things.entry((TypeId::of::<T>(), name.to_owned())).or_insert_with(|| Arc::new(make()));
        thing.clone().downcast().expect("what is kept under a type is of that type")
    }

    /// The thing of this type and name, if there is one.
    pub fn get<T: Any + Send + Sync>(&self, name: &str) -> Option<Arc<T>> {
        let thing = self.0.lock().get(&(TypeId::of::<T>(), name.to_owned())).cloned()?;
        thing.downcast().ok()
    }

    /// All things of this type, by name.
    pub fn all<T: Any + Send + Sync>(&self) -> Vec<(String, Arc<T>)> {
        let things = self.0.lock();
        let of_type = things.iter().filter(|((id, _), _)| *id == TypeId::of::<T>());
        let mut all: Vec<_> =
            of_type.filter_map(|((_, name), thing)| Some((name.clone(), thing.clone().downcast().ok()?))).collect();
        all.sort_unstable_by(|(one, _): &(String, Arc<T>), (other, _)| one.cmp(other));
        all
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.lock().keys().map(|(_, name)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_makes_and_the_others_share() {
        let registry = Registry::default();
        assert_eq!(*registry.get_or_make("a", || 1_u32), 1);
        assert_eq!(*registry.get_or_make("a", || 2_u32), 1);
        registry.get_or_make("0", || 3_u32);
        let all: Vec<(String, u32)> = registry.all::<u32>().into_iter().map(|(name, n)| (name, *n)).collect();
        assert_eq!(all, [("0".to_owned(), 3), ("a".to_owned(), 1)]);
        assert_eq!((registry.get::<u32>("b"), registry.get::<u64>("a")), (None, None));
    }
}
