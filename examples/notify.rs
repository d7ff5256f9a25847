//! Orders tell those whom they concern: the search index of all that happens, the customer of a paid order by mail, the team of a large one in
//! Slack, the shop's database of one that was cancelled.
//!
//! Each receiver is named by a flag, and what is not named is left out: `notify --search http://127.0.0.1:9200 --mail smtp://127.0.0.1:2525
//! --without-tls --allow-private`, say. For `--database` there must be a function `forget_order(key text, because text)`. Without any of
//! them it prints whom it would tell. Secrets come from the environment: SLACK_TOKEN, MAIL_PASSWORD, SEARCH_KEY.

use highwater::operators::action::NamedAction;
use highwater::prelude::*;
use highwater_examples::page;

const INPUT: &str = "data/notify.jsonl";

#[derive(clap::Args, Clone)]
struct Args {
    /// The changes, one a line in the default envelope
    #[arg(long, value_name = "FILE", default_value = INPUT)]
    input: String,
    /// Where Slack is
    #[arg(long, value_name = "URL")]
    slack: Option<String>,
    /// The mail server: smtp://HOST:PORT or smtps://HOST:PORT
    #[arg(long, value_name = "URL")]
    mail: Option<String>,
    /// The mail server is on this machine, and speaks no TLS
    #[arg(long)]
    without_tls: bool,
    /// A node of Elasticsearch or OpenSearch
    #[arg(long, value_name = "URL")]
    search: Option<String>,
    /// The shop's database
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

fn main() -> highwater::Exit {
    highwater::program("notify")
        .about("Tells those whom orders concern")
        .prepare(|args: &Args| if args.input == INPUT { Ok(page::make(INPUT, lines())?) } else { Ok(()) })
        .main_with(|flow, args: &Args| {
            flow.source(JsonLines::file(&args.input)).fan_out(actions(args)).checkpoint(Checkpoint::every(millis(200)));
        })
}

/// What there is to do, of what is named.
fn actions(args: &Args) -> Vec<NamedAction> {
    let print = run(|order| async move {
        println!("{} of {}", order.operation().as_str(), order.key());
        Ok(())
    });
    let mut actions = vec![action("print", print).on(table("orders"))];
    if let Some(node) = &args.search {
        // The lines are of one file: their places tell newer from older, which is the default.
        let search = Elasticsearch::index([node], "orders");
        let search = search.template(IndexTemplate::new("orders", ["orders"]).replicas(0).keep_deletes(hours(24)));
        let search = secret("SEARCH_KEY").map_or(search.clone(), |key| search.api_key(key));
        actions.push(action("search", search).on(table("orders")));
    }
    if let Some(server) = &args.mail {
        let mail = Mail::by(server).from("The shop <shop@shop.example>").to("{after.name} <{after.email}>");
        let mail = mail.subject("Your order {key}").text("Dear {after.name},\n\nwe have received {after.amount} EUR.\n");
        let mail = secret("MAIL_PASSWORD").map_or(mail.clone(), |password| mail.login("shop", password));
        let mail = if args.without_tls { mail.without_tls() } else { mail };
        actions.push(action("receipt", mail).on(all([table("orders"), became("status", "paid")])));
    }
    if let Some(origin) = &args.slack {
        let tell = Slack::bot(env("SLACK_TOKEN"), "#orders").at(origin);
        let tell = tell.text("A large order: *{key}* of {after.name}, {after.amount} EUR");
        actions.push(action("tell", tell).on(all([table("orders"), is_insert(), field("amount").above(100)])));
    }
    if let Some(url) = &args.database {
        let forget = PostgresStatement::run(url, "select forget_order($1, $2)").parameters(["{key}", "{before.reason}"]);
        actions.push(action("forget", forget).on(all([table("orders"), is_delete()])));
    }
    actions
}

fn secret(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn lines() -> String {
    let order = |name: &str, amount: u32, status: &str| {
        let email = format!("{}@example.com", name.to_lowercase());
        format!(r#"{{"name":"{name} <b>","email":"{email}","amount":{amount},"status":"{status}","reason":"changed my mind"}}"#)
    };
    let line = |id: u32, op: &str, key: &str, before: &str, after: &str| {
        format!("{{\"id\":{id},\"table\":\"orders\",\"op\":\"{op}\",\"key\":\"{key}\",\"before\":{before},\"after\":{after}}}\n")
    };
    let [ada, paid] = ["new", "paid"].map(|status| order("Ada", 40, status));
    let [bo, bo_paid] = ["new", "paid"].map(|status| order("Bo", 250, status));
    let cy = order("Cy", 120, "new");
    [
        line(1, "insert", "o-1", "null", &ada),
        line(2, "insert", "o-2", "null", &bo),
        line(3, "update", "o-1", &ada, &paid),
        line(4, "insert", "o-3", "null", &cy),
        line(5, "delete", "o-3", &cy, "null"),
        line(6, "update", "o-2", &bo, &bo_paid),
    ]
    .concat()
}
