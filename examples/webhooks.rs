//! Every change of a file goes to every URL: an action per URL, `hook-1`, `hook-2` and so on, none of which waits for another.
//!
//! Start a receiver, `python3 -m http.server` will do to see what parks (it knows no POST: 501, tried again, then parked), and run
//! `webhooks --url http://127.0.0.1:8000/ --allow-private`; without `--allow-private` it refuses. The body is the change in the default
//! envelope, and `webhook-id` is the same for every repeat of a change. Name a URL where nobody listens beside one that works: the breaker
//! limits calls to it, the other does not notice, and after `--give-up` what it refuses is parked. Once somebody listens,
//! `webhooks .. parked retry --all` and another run deliver it.

use highwater::operators::guard::GuardConfig;
use highwater::operators::guard::breaker::BreakerConfig;
use highwater::operators::testing::failpoint;
use highwater::prelude::*;
use highwater_examples::page;

const INPUT: &str = "data/webhooks.jsonl";

#[derive(clap::Args, Clone)]
struct Args {
    /// The changes, one a line in the default envelope
    #[arg(long, value_name = "FILE", default_value = INPUT)]
    input: String,
    /// Where they go; may be said several times
    #[arg(long = "url", value_name = "URL", default_value = "http://127.0.0.1:8000/")]
    urls: Vec<String>,
    /// A secret to sign with, `whsec_` and base64; said twice, there are two signatures
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// A header of each request, `NAME: VALUE`
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Later changes of a key wait behind one that is parked
    #[arg(long)]
    hold: bool,
    /// Seconds without any success after which changes for an endpoint are parked instead of waiting for it; 0 waits for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    give_up: u64,
    /// Seconds that an open breaker asks nothing before it lets probes through
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    rest: u64,
    /// For tests: the process is killed when it passes this place, `PLACE:HOW_OFTEN`
    #[arg(long, value_name = "PLACE", hide = true)]
    die_at: Option<String>,
}

fn main() -> highwater::Exit {
    highwater::program("webhooks")
        .about("Every change to every URL")
        .prepare(|args: &Args| {
            if let Some((place, passage)) = args.die_at.as_deref().and_then(|at| at.split_once(':')) {
                failpoint::die_at(place, passage.parse().unwrap_or(1))?;
            }
            if args.input == INPUT { Ok(page::make(INPUT, lines())?) } else { Ok(()) }
        })
        .main_with(|flow, args: &Args| {
            flow.source(JsonLines::file(&args.input))
                .fan_out(args.urls.iter().zip(1..).map(|(url, n)| {
                    let breaker = BreakerConfig { reset_after: seconds(args.rest), ..BreakerConfig::default() };
                    let mut hook = Webhook::post(url).guard(GuardConfig { breaker, ..GuardConfig::default() });
                    for secret in &args.secrets {
                        hook = hook.signed_with(secret);
                    }
                    for header in &args.headers {
                        let (name, value) = header.split_once(": ").unwrap_or((header, ""));
                        hook = hook.header(name, value);
                    }
                    if args.give_up > 0 {
                        hook = hook.give_up_after(seconds(args.give_up));
                    }
                    let hook = action(format!("hook-{n}"), hook).max_parallelism(100);
                    if args.hold { hook.hold() } else { hook }
                }))
                .checkpoint(Checkpoint::every(millis(200)));
        })
}

fn lines() -> String {
    let line = |n| format!("{{\"id\":\"c-{n}\",\"op\":\"insert\",\"key\":\"o-{}\",\"after\":{{\"amount\":{n}}}}}\n", n % 7);
    (1..=20).map(line).collect()
}
