//! Each order gets two rows attached: its customer from a CSV file, and the rate of its currency from an async closure.
//!
//! The closure stands for a database: it is asked for several keys at once ("rates asked for .."), and what it said is kept. An
//! order whose customer or currency is not known gets an absent row and passes all the same. Try `--workers 1`, append an order
//! to `data/lookup.jsonl` and run it again, or ask by another column with `.key(..)`.

use highwater::prelude::*;
use highwater_examples::page;

const ORDERS: &str = "data/lookup.jsonl";
const CUSTOMERS: &str = "data/lookup-customers.csv";

const LINES: &str = r#"{"id":1,"op":"insert","key":"o-1","after":{"customer":"u-1","currency":"EUR","amount":10}}
{"id":2,"op":"insert","key":"o-2","after":{"customer":"u-2","currency":"USD","amount":20}}
{"id":3,"op":"insert","key":"o-3","after":{"customer":"u-1","currency":"USD","amount":30}}
{"id":4,"op":"insert","key":"o-4","after":{"customer":"u-9","currency":"EUR","amount":40}}
{"id":5,"op":"insert","key":"o-5","after":{"customer":"u-2","currency":"XXX","amount":50}}
{"id":6,"op":"delete","key":"o-1","before":{"customer":"u-1","currency":"EUR","amount":10}}
"#;

fn main() -> highwater::Exit {
    highwater::program("lookup")
        .about("Attaches a row of a CSV file, and one that an async closure loads")
        .prepare(|_: &()| {
            page::make(CUSTOMERS, "id,name,tier\nu-1,Ada,gold\nu-2,Bo,blue\n")?;
            Ok(page::make(ORDERS, LINES)?)
        })
        .main_with(|flow, _| {
            let customer = Lookup::by("customer").from(Csv::file(CUSTOMERS).key("id"));
            // At most 100 keys at once; the first of them waits up to 20 ms for others.
            let rate =
                Lookup::by("currency").from(load(rates)).batch(100, millis(20)).cache(Cache::entries(1_000).ttl(minutes(5)));
            flow.source(JsonLines::file(ORDERS))
                .lookup("customer", customer)
                .lookup("rate", rate)
                .fan_out([action(
                    "print",
                    run(|change| async move {
                        let customer = change.found("customer");
                        let [name, tier] = ["name", "tier"].map(|field| customer.str(field).unwrap_or("unknown".into()));
                        let (amount, rate) = (change.row().parse::<f64>("amount"), change.found("rate").parse::<f64>("euros"));
                        let euros = amount
                            .zip(rate)
                            .map_or("at no known rate".into(), |(amount, rate)| format!("{:.2} EUR", amount * rate));
                        println!("{} {} by {name} ({tier}): {euros}", change.operation().as_str(), change.key());
                        Ok(())
                    }),
                )])
                .checkpoint(Checkpoint::every(millis(200)));
        })
}

/// One answer for each key, in their order; `None` where there is no such row.
async fn rates(currencies: Vec<String>) -> Result<Vec<Option<Fields>>> {
    println!("rates asked for {}", currencies.join(", "));
    tokio::time::sleep(millis(5)).await;
    let rate = |currency: &String| match currency.as_str() {
        "EUR" => Some(Fields::new([("euros", Some("1.00"))])),
        "USD" => Some(Fields::new([("euros", Some("0.86"))])),
        _ => None,
    };
    Ok(currencies.iter().map(rate).collect())
}
