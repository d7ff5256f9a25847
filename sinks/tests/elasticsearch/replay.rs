//! Whatever is read and sent again, in whatever batches: what is older never takes the place of what is newer.

use std::collections::{HashMap, HashSet};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::*;

/// A seeded history of a few keys, and how their rows stand in the end.
fn history(random: &mut StdRng) -> (Vec<Delivery>, HashMap<String, Value>) {
    let (mut changes, mut rows) = (Vec::new(), HashMap::new());
    for n in 1..=60_u64 {
        let key = format!("o-{}", random.random_range(0..5));
        if rows.contains_key(&key) && random.random_bool(0.3) {
            rows.remove(&key);
            changes.push(delete(n * 8, &key));
        } else {
            let row = json!({"n": n});
            rows.insert(key.clone(), row.clone());
            changes.push(put(n * 8, &key, &row));
        }
    }
    (changes, rows)
}

/// Sends changes in batches of which none holds a key twice.
async fn send(orders: &Elasticsearch, changes: &[Delivery], random: &mut StdRng) {
    let mut rest = changes;
    while !rest.is_empty() {
        let most = random.random_range(1..=10);
        let mut keys = HashSet::new();
        let end = rest.iter().position(|change| !keys.insert(change.key().to_owned())).unwrap_or(rest.len()).min(most);
        for answer in orders.call(&rest[..end]).await {
            answer.unwrap();
        }
        rest = &rest[end..];
    }
}

/// Goal: a document is as its row is, however often and in whatever order older changes come again. Method: seeded histories with deletes, sent in
/// order, then pieces of them replayed from any point, then all of them shuffled, as late requests of earlier runs would come.
#[tokio::test]
async fn older_never_takes_the_place_of_newer() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let cluster = Cluster::start();
        let orders = orders(&cluster);
        let (changes, rows) = history(&mut random);
        let holds = |when: &str| {
            assert_eq!(cluster.count(), rows.len(), "seed {seed}, {when}");
            for (key, row) in &rows {
                assert_eq!(cluster.document("orders", key).as_ref(), Some(row), "seed {seed}, {when}: {key}");
            }
        };
        send(&orders, &changes, &mut random).await;
        holds("in order");
        for _ in 0..3 {
            let from = random.random_range(0..changes.len());
            let to = random.random_range(from..=changes.len());
            send(&orders, &changes[from..to], &mut random).await;
            holds("replayed");
        }
        let mut late = changes.clone();
        late.shuffle(&mut random);
        send(&orders, &late, &mut random).await;
        holds("shuffled");
    }
}

#[tokio::test]
async fn a_delete_is_not_undone_for_as_long_as_it_is_remembered() {
    let cluster = Cluster::start();
    let template = IndexTemplate::new("orders", ["orders"]).keep_deletes(Duration::from_secs(24 * 3600));
    let orders = orders(&cluster).template(template);
    for change in [put(8, "o-1", &json!({"n": 1})), delete(16, "o-1")] {
        assert!(orders.call(&[change]).await[0].is_ok());
    }
    cluster.state.lock().clock = 23 * 3600;
    assert!(orders.call(&[put(8, "o-1", &json!({"n": 1}))]).await[0].is_ok());
    assert_eq!(cluster.count(), 0);
    // This is what `gc_deletes` is for: beyond it an older operation is taken again. A soft delete has no such end.
    cluster.state.lock().clock = 48 * 3600;
    assert!(orders.call(&[put(8, "o-1", &json!({"n": 1}))]).await[0].is_ok());
    assert_eq!(cluster.count(), 1);
    let soft = Elasticsearch::index([cluster.url()], "soft").soft_delete("gone").allow_private();
    for change in [put(8, "o-2", &json!({"n": 1})), delete(16, "o-2")] {
        assert!(soft.call(&[change]).await[0].is_ok());
    }
    cluster.state.lock().clock = 400 * 3600;
    assert!(soft.call(&[put(8, "o-2", &json!({"n": 1}))]).await[0].is_ok());
    assert_eq!(cluster.document("soft", "o-2"), Some(json!({"was": "o-2", "gone": true})));
}

#[tokio::test]
async fn places_of_two_partitions_are_not_compared() {
    let cluster = Cluster::start();
    let orders = orders(&cluster);
    assert!(orders.call(&[put(900, "o-1", &json!({"n": 1}))]).await[0].is_ok());
    // The log was rotated: what is newer stands at a smaller place.
    let change = put(1, "o-1", &json!({"n": 2})).change().clone().with_position(Position { partition: 1, at: 1, within: 0 });
    let rotated = [Delivery::alone(change, 1)];
    error(&orders.call(&rotated).await[0], ErrorKind::Stop, &["two partitions (0 and 1)", ".version_by(..)"]);
    let by_row = orders.clone().version_by("{after.n}");
    assert!(by_row.versioned(Version::Time).call(&rotated).await[0].is_ok());
    assert_eq!(cluster.document("orders", "o-1"), Some(json!({"n": 2})));
    let missing = orders.version_by("{after.revision}").call(&rotated).await;
    error(&missing[0], ErrorKind::Park, &["version", "nothing for {after.revision}"]);
}

#[tokio::test]
async fn what_the_source_did_not_send_is_taken_of_the_row_before_or_the_change_is_parked() {
    let cluster = Cluster::start();
    let parts = |before| highwater_operators::change::Parts {
        id: "c-1",
        table: "orders",
        key: Some("o-1"),
        operation: Operation::Update,
        time_ms: 1,
        before,
        after: Some(r#"{"n":2}"#),
    };
    let position = Position { partition: 0, at: 8, within: 0 };
    let partial = |before| {
        let change = Change::with_names_apart(bytes::Bytes::new(), position, parts(before), r#"["text"]"#).unwrap();
        Delivery::alone(change, 1)
    };
    let orders = orders(&cluster);
    error(&orders.call(&[partial(None)]).await[0], ErrorKind::Park, &["\"text\"", "REPLICA IDENTITY FULL"]);
    let shaped = orders.clone().document(r#"{"text": {after.text}}"#);
    error(&shaped.call(&[partial(None)]).await[0], ErrorKind::Park, &["after.text"]);
    assert!(orders.call(&[partial(Some(r#"{"n":1,"text":"long"}"#))]).await[0].is_ok());
    assert_eq!(cluster.document("orders", "o-1"), Some(json!({"n": 2, "text": "long"})));
}
