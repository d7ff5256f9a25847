//! A change that an action cannot do is parked: set aside whole, with its cause, for a person to decide.
//!
//! Of five orders one has no number for an amount and one makes the closure panic; three are printed, and the hook tells of two. Then see
//! `parked list` and `parked show ID`. What can be mended is tried again: `parked retry ID`, then a run with `--lenient`, which
//! stands for the mended program; or with another row: `parked edit ID --row '{"customer":"Di","amount":40}' --retry`. What cannot
//! is given up: `parked drop ID`. The next run does all of it, a running pipeline at once. Many are meant by what they have in common:
//! `parked retry --error amount --newer-than 1h`. (With cargo, all of this stands behind `--`.)

use highwater::prelude::*;
use highwater_examples::page;

const INPUT: &str = "data/parked.jsonl";

const LINES: &str = r#"{"id":"c-1","op":"insert","key":"o-1","after":{"customer":"Ada","amount":10}}
{"id":"c-2","op":"insert","key":"o-2","after":{"customer":"Bo","amount":"lots"}}
{"id":"c-3","op":"insert","key":"o-3","after":{"customer":"Cy","amount":30}}
{"id":"c-4","op":"insert","key":"o-4","after":{"customer":null,"amount":40}}
{"id":"c-5","op":"insert","key":"o-5","after":{"customer":"Ed","amount":50}}
"#;

#[derive(clap::Args, Clone)]
struct Args {
    /// Take an amount that is no number as 0
    #[arg(long)]
    lenient: bool,
}

fn main() -> highwater::Exit {
    highwater::program("parked")
        .about("Sets aside what cannot be done, with its cause")
        .prepare(|_| Ok(page::make(INPUT, LINES)?))
        .main_with(|flow, args: &Args| {
            let lenient = args.lenient;
            let tell = run(|parked| async move {
                let row = parked.row();
                eprintln!("parked: {} {}", parked.key(), row.str("error").unwrap_or_default());
                Ok(())
            });
            flow.source(JsonLines::file(INPUT))
                .fan_out([action(
                    "print",
                    run(move |change| async move {
                        let order = change.row();
                        let amount = match order.parse::<f64>("amount") {
                            Some(amount) => amount,
                            None if lenient => 0.0,
                            // An error of kind `park` is final; `Error::retry`, or any `?`, is tried again first.
                            None => {
                                return Err(Error::park(format!(
                                    "the amount is \"{}\"",
                                    order.str("amount").unwrap_or_default()
                                )));
                            }
                        };
                        let customer = order.str("customer").expect("every order has a customer");
                        println!("{} {customer} {amount:.2}", change.key());
                        Ok(())
                    }),
                )
                // By itself, if this program runs on: what failed, not what panicked.
                .retry_parked(Schedule::after([minutes(5), hours(1), hours(12)]))
                .on_parked(action("tell", tell))])
                .checkpoint(Checkpoint::every(millis(200)));
        })
}
