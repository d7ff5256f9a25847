//! Orders that were paid, with their customers; and every change, once.
//!
//! Makes its input if there is none, runs on all cores, and ends with the books. Kill it when you like and start it again:
//! nothing is lost, and nothing is written twice.

mod input;

use highwater::prelude::*;
use input::Args;

fn main() -> highwater::Exit {
    highwater::program("orders")
        .about("Orders that were paid, with their customers; and every change, once")
        .prepare(Args::make_input)
        .main_with(|flow, args: &Args| {
            let customers = Csv::file(args.customers()).key("id");
            flow.source(JsonLines::file(args.input()))
                .dedup(args.dedup())
                .lookup("customer", Lookup::by("customer_id").from(customers).cache(Cache::entries(100_000)))
                .fan_out([
                    action("paid", JsonLines::append(args.out.join("paid")).with(paid)).when(|c| c.became("status", "paid")),
                    action("all", JsonLines::append(args.out.join("all")).with(every)),
                ])
                .checkpoint(Checkpoint::every(millis(200)));
        })
}

/// An order that became paid: the change's id, the row, and what is known of the customer.
fn paid(change: &Change, line: &mut Line<'_>) {
    let customer = change.found("customer");
    let [name, tier] = customer.pick(["name", "tier"]).map(|value| value.and_then(Value::text).unwrap_or_default());
    line.field("id", change.id()).row(change.after()).field("customer_name", &name).field("tier", &tier);
}

/// Every change: what happened to which order of which tier.
fn every(change: &Change, line: &mut Line<'_>) {
    let tier = change.found("customer").str("tier").unwrap_or_default();
    line.field("id", change.id()).field("key", change.key()).field("op", change.operation().as_str()).field("tier", &tier);
}
