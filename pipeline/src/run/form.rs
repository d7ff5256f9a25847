//! Several processes: what each does before anything runs, and how they agree.
//!
//! The leader opens the store, which raises the generation; numbers partitions and actions; cuts files back. What the others need to
//! know of it they are told, and take the rest from the store themselves.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use highwater_operators::checkpoint::place::StorePlace;
use highwater_operators::cluster::form::{Party, gather};
use highwater_operators::cluster::{Cluster, Welcome};
use highwater_operators::halt::Halt;
use highwater_operators::ingest::Partition;
use highwater_operators::{Error, Result};
use xxhash_rust::xxh3::Xxh3;

use super::Partitions;
use super::open::Sources;
use crate::plan::Plan;
use crate::settings::Settings;

/// Finds the other processes, if there are any.
///
/// # Errors
/// The store or a source takes one process alone, or the others are not found as they should be.
pub(super) fn form(name: &str, settings: &Settings, plan: &Plan, store: &dyn StorePlace, halt: &Arc<Halt>) -> Result<Cluster> {
    let place = settings.place()?;
    if !place.has_others() {
        return Ok(Cluster::alone(place.workers, halt));
    }
    store.takes_several_processes()?;
    if let Some((source, description)) = plan.sources.iter().find(|(_, source)| !source.can_be_read_again()) {
        return Err(Error::stop(format!(
            "source \"{source}\" ({}) belongs to one process: each would have another one of its name; run the pipeline in one process, \
             with more workers if need be",
            description.place()
        )));
    }
    let party = Party {
        place,
        hosts: settings.hosts()?,
        pipeline: name.to_owned(),
        shape: shape(plan),
        patience: settings.gather_timeout,
        timeout: settings.process_timeout,
        secret: settings.cluster_secret.clone(),
    };
    gather(&party, halt)
}

/// What must be alike in all processes: the steps and how they hang together. Not where files are, which may differ by machine.
fn shape(plan: &Plan) -> u64 {
    let mut hasher = Xxh3::new();
    for node in &plan.nodes {
        hasher.update(format!("{:?} {:?} {:?}\n", node.kind, node.name, node.inputs).as_bytes());
    }
    hasher.finish()
}

/// The partitions as the leader tells them.
pub(super) fn told(generation: u64, partitions: &Partitions) -> Welcome {
    let pairs = |numbered: &Vec<Partition>| numbered.iter().map(|partition| (partition.id, partition.name.clone())).collect();
    Welcome { generation, partitions: partitions.iter().map(|(source, numbered)| (source.clone(), pairs(numbered))).collect() }
}

/// The partitions as a member takes them, if its sources have those that fall to it.
///
/// # Errors
/// A source of this process does not have what the leader's has.
pub(super) fn taken(welcome: Welcome, sources: &Sources, cluster: &Cluster) -> Result<Partitions> {
    let place = cluster.place();
    let mut partitions = BTreeMap::new();
    for (source, pairs) in welcome.partitions {
        let own = sources.get(&source).map(|own| own.partitions()).transpose()?.unwrap_or_default();
        let mine = |id: u32| place.process_of(place.reader_of(id)) == place.process;
        if let Some((_, missing)) =
            pairs.iter().find(|(id, name)| mine(*id) && !own.iter().any(|partition| partition.name == *name))
        {
            return Err(Error::stop(format!(
                "source \"{source}\" of process {} does not have partition {missing}, which process 0 has found: a source of several \
                 processes must be the same for all of them",
                place.process
            )));
        }
        partitions.insert(source, pairs.into_iter().map(|(id, name)| Partition { id, name }).collect());
    }
    Ok(partitions)
}

/// How long what a process says last may take to be sent.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Something failed before anything ran: the others hear of it.
pub(super) fn give_up(cluster: &Cluster, halt: &Halt, error: Error) -> Error {
    halt.fail(Error::stop(error.to_string()));
    part(cluster);
    error
}

/// Ends the connections to the other processes, after what there is to say.
pub(super) fn part(cluster: &Cluster) {
    cluster.say_farewell();
    cluster.close(LAST_WORDS);
}
