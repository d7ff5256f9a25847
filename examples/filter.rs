//! A filter lets pass what its condition holds for, and counts the rest: nothing disappears unseen.
//!
//! Of nine changes five are of the table `orders`, and two of these are large: two are printed, seven stand in the column
//! "filtered". A filter comes before all actions; `.when(..)` on an action is a filter of that action alone. Try to move the
//! second filter there, and look at `graph`.

use highwater::prelude::*;
use highwater_examples::page;

const INPUT: &str = "data/filter.jsonl";

const LINES: &str = r#"{"id":1,"table":"orders","op":"insert","key":"o-1","after":{"amount":40}}
{"id":2,"table":"customers","op":"insert","key":"u-1","after":{"name":"Ada"}}
{"id":3,"table":"orders","op":"insert","key":"o-2","after":{"amount":400}}
{"id":4,"table":"customers","op":"update","key":"u-1","after":{"name":"Ada L."}}
{"id":5,"table":"orders","op":"update","key":"o-1","before":{"amount":40},"after":{"amount":100}}
{"id":6,"table":"orders","op":"insert","key":"o-3","after":{"amount":null}}
{"id":7,"table":"stock","op":"update","key":"s-1","after":{"left":3}}
{"id":8,"table":"orders","op":"update","key":"o-3","after":{"amount":99.99}}
{"id":9,"table":"customers","op":"delete","key":"u-1","before":{"name":"Ada L."}}
"#;

fn main() -> highwater::Exit {
    highwater::program("filter")
        .about("Lets pass large orders, and counts the rest")
        .prepare(|_: &()| Ok(page::make(INPUT, LINES)?))
        .main_with(|flow, _| {
            flow.source(JsonLines::file(INPUT))
                .filter(|change| change.table() == "orders")
                // A field that is null, absent or no number has no amount: such a change does not pass.
                .filter(|change| change.row().parse::<f64>("amount").is_some_and(|amount| amount >= 100.0))
                .fan_out([action(
                    "print",
                    run(|change| async move {
                        println!("{} is large: {}", change.key(), change.row().str("amount").unwrap_or_default());
                        Ok(())
                    }),
                )])
                .checkpoint(Checkpoint::every(millis(200)));
        })
}
