//! Changes of one key are delivered in order, one at a time. What if one of them is parked?
//!
//! The second change of account `a` fails. At the action `release` (the default) the third passes it; at `hold` it waits
//! behind, parked too. Then ask for the failed one again, `-- parked retry --action hold`, and run with `--mended`: the second
//! and then the third are delivered. Account `b` never waits for `a`.

use highwater::prelude::*;
use highwater_examples::page;

const INPUT: &str = "data/order_per_key.jsonl";

const LINES: &str = r#"{"id":"a-1","op":"insert","key":"a","after":{"balance":1}}
{"id":"a-2","op":"update","key":"a","before":{"balance":1},"after":{"balance":-1}}
{"id":"b-1","op":"insert","key":"b","after":{"balance":7}}
{"id":"a-3","op":"update","key":"a","before":{"balance":-1},"after":{"balance":3}}
{"id":"b-2","op":"update","key":"b","before":{"balance":7},"after":{"balance":8}}
"#;

#[derive(clap::Args, Clone)]
struct Args {
    /// Take a balance below zero, too
    #[arg(long)]
    mended: bool,
}

fn main() -> highwater::Exit {
    highwater::program("order_per_key")
        .about("Order per key, and what becomes of it when a change is parked")
        .prepare(|_| Ok(page::make(INPUT, LINES)?))
        .main_with(|flow, args: &Args| {
            let mended = args.mended;
            flow.source(JsonLines::file(INPUT))
                .fan_out([
                    action("release", run(move |change| async move { book("release", &change, mended) })),
                    action("hold", run(move |change| async move { book("hold", &change, mended) })).hold(),
                ])
                .checkpoint(Checkpoint::every(millis(200)));
        })
}

fn book(action: &str, change: &Change, mended: bool) -> Result {
    let balance: i64 = change.after().parse("balance").unwrap_or_default();
    if balance < 0 && !mended {
        return Err(Error::park(format!("the balance of account {} is {balance}", change.key())));
    }
    println!("{action}: {} sets account {} to {balance}", change.id(), change.key());
    Ok(())
}
