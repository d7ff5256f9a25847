//! Three actions take the same ten changes, each under its own name, with its own condition, bounds and pace.
//! A condition is a closure (`.when(|change| ..)`) or a ready one (`.on(became(..))`), which `graph` and `status` show by name.
//!
//! `mail` takes only orders that became paid, at most two at once. `bank` takes new ones; it is busy at the first attempt,
//! is tried again, and once does not answer at all: after its timeout that call is repeated too. `archive` writes files. None
//! waits for another. Try `.attempts(1)` on `bank`: what is not tried again is parked, and the other two do not notice.

use std::sync::atomic::{AtomicUsize, Ordering};

use highwater::prelude::*;
use highwater_examples::page;

const INPUT: &str = "data/fan_out.jsonl";

static MAILS_UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

fn main() -> highwater::Exit {
    highwater::program("fan_out")
        .about("Three actions on the same changes, each with bounds of its own")
        .prepare(|_: &()| Ok(page::make(INPUT, lines())?))
        .main_with(|flow, _| {
            flow.source(JsonLines::file(INPUT))
                .fan_out([
                    action("mail", run(mail)).on(became("status", "paid")).max_parallelism(2),
                    action("bank", Bank)
                        .when(|change| change.operation() == Operation::Insert)
                        .timeout(millis(100))
                        .attempts(3)
                        .backoff(millis(10), millis(50)),
                    action("archive", JsonLines::append("out/fan_out/archive")),
                ])
                .checkpoint(Checkpoint::every(millis(200)));
        })
}

/// An async function over a change is an action.
async fn mail(change: Change) -> Result {
    let at_once = MAILS_UNDER_WAY.fetch_add(1, Ordering::Relaxed) + 1;
    tokio::time::sleep(millis(20)).await;
    MAILS_UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    println!("mail  {} is paid ({at_once} at once)", change.key());
    Ok(())
}

/// A type that implements `Action` hears more: which attempt this is, and the idempotency key.
struct Bank;

impl Action for Bank {
    fn call(&self, order: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            match (order.key(), order.attempt()) {
                ("o-1", 1) => std::future::pending().await,
                (_, 1) => return Err(Error::retry("the bank is busy")),
                (_, attempt) => println!("bank  {} is known at attempt {attempt}", order.key()),
            }
            Ok(())
        })
    }
}

fn lines() -> String {
    let new = (1..=6).map(|n| format!(r#"{{"id":"new-{n}","op":"insert","key":"o-{n}","after":{{"status":"new"}}}}"#));
    let paid = (1..=4).map(|n| {
        format!(r#"{{"id":"paid-{n}","op":"update","key":"o-{n}","before":{{"status":"new"}},"after":{{"status":"paid"}}}}"#)
    });
    new.chain(paid).map(|line| line + "\n").collect()
}
