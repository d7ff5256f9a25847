//! Lookups with a cache in a real Redis behind the workers' own: what it has, what it has not, and what is done without it.

mod support;

use std::time::{Duration, Instant};

use highwater::operators::testing::redis::{Server, Settings as RedisSettings};
use highwater::prelude::*;
use highwater::run::Control;
use support::tiers::{CUSTOMERS, Tiers, tiers};

/// The pipeline with this cache.
fn shop(cache: RedisCache) -> Tiers {
    tiers(move |lookup| lookup.shared_cache(cache.clone()))
}

fn in_redis(server: &Server) -> RedisCache {
    RedisCache::at(server.url().reveal())
}

#[test]
fn what_one_pipeline_loaded_the_next_finds_there() {
    let server = Server::start().unwrap();
    let first = shop(in_redis(&server).ttl(minutes(30)).negative_ttl(minutes(1)));
    first.run();
    assert!(first.loaded() >= CUSTOMERS as u64);
    // What is told to Redis is told beside; all of it is there once the run has ended and the keys are.
    support::until("all is kept", || server.ask(&["DBSIZE"]).unwrap() == CUSTOMERS.to_string());
    let second = shop(in_redis(&server));
    second.run();
    assert_eq!(second.loaded(), 0, "rows, and that there is none, come from Redis");
    let left =
        |key: &str| server.ask(&["PTTL", &format!("highwater:cache:test:customer:{key}")]).unwrap().parse::<u64>().unwrap();
    assert!((1_500_000..=1_980_000).contains(&left("u1")), "thirty minutes, give or take a tenth: {}", left("u1"));
    assert!((40_000..=66_000).contains(&left("u10")), "a minute, give or take a tenth: {}", left("u10"));
    server.flush().unwrap();
    second.run();
    assert!(second.loaded() >= CUSTOMERS as u64, "emptied, all is loaded anew");
}

#[test]
fn what_is_not_to_be_kept_is_not() {
    let server = Server::start().unwrap();
    let shop = shop(in_redis(&server).negative_ttl(Duration::ZERO).prefix("mine"));
    shop.run();
    let rows = (CUSTOMERS - CUSTOMERS / 10).to_string();
    support::until("rows are kept", || server.ask(&["DBSIZE"]).unwrap() == rows);
    assert_eq!(server.ask(&["EXISTS", "highwater:cache:mine:u1", "highwater:cache:mine:u10"]).unwrap(), "1");
}

#[test]
fn somebody_elses_values_are_no_rows() {
    let server = Server::start().unwrap();
    server.ask(&["SET", "highwater:cache:test:customer:u1", "hello"]).unwrap();
    server.ask(&["SET", "highwater:cache:test:customer:u2", ""]).unwrap();
    shop(in_redis(&server)).run();
    support::until("they are replaced", || server.ask(&["GET", "highwater:cache:test:customer:u1"]).unwrap().contains("tier-u1"));
}

/// Runs it while something happens to Redis half-way.
fn meanwhile(shop: &Tiers, harm: impl FnOnce()) -> Duration {
    let folder = support::folder();
    let began = Instant::now();
    let running = support::start(&support::settings(folder.path().join("data"), 2), &shop.build, Control::default());
    support::until("some are done", || shop.found() > 100);
    harm();
    assert!(running.end().expect("no error").ended);
    shop.check();
    began.elapsed()
}

#[test]
fn a_redis_that_is_killed_or_frozen_is_done_without() {
    let server = Server::start().unwrap();
    let shop = shop(in_redis(&server).patience(millis(50)));
    meanwhile(&shop, || server.kill().unwrap());
    shop.run();
    assert!(shop.loaded() > CUSTOMERS as u64, "without Redis the origin is asked");
    server.start_again().unwrap();
    let took = meanwhile(&shop, || server.freeze().unwrap());
    // Patience is lost some times, then the breaker is open: with 40 batches and more, waiting for each would take longer.
    assert!(took < Duration::from_secs(20), "{took:?}");
    server.thaw().unwrap();
    shop.run();
}

/// The line that docs/redis.md gives.
#[test]
fn the_rights_that_the_documentation_names_are_enough() {
    let page = include_str!("../../docs/redis.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER cache ")).expect("docs/redis.md has the line");
    let rules = line.strip_prefix("ACL SETUSER ").unwrap().replace(">PASSWORD", ">secret");
    let server = RedisSettings::default().password("admin").user(&rules).start().unwrap();
    let allowed = shop(RedisCache::at(server.url_of("cache", "secret").reveal()));
    allowed.run();
    allowed.loaded();
    support::until("all is kept", || server.ask(&["DBSIZE"]).unwrap() == CUSTOMERS.to_string());
    allowed.run();
    assert_eq!(allowed.loaded(), 0);
    // Without rights it is no cache, and no reason to stop.
    let refused = shop(RedisCache::at(server.url_of("cache", "wrong").reveal()));
    refused.run();
    assert!(refused.loaded() >= CUSTOMERS as u64);
}

#[test]
fn what_cannot_be_is_refused_before_the_first_step() {
    for (cache, said) in [(RedisCache::at("localhost"), "redis://"), (RedisCache::at("redis://h").ttl(Duration::ZERO), "ttl")] {
        let folder = support::folder();
        let error = support::run(&support::settings(folder.path().join("data"), 1), &shop(cache).build).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("lookup \"customer\""), "{error}");
    }
}
