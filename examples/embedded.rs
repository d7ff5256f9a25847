//! A service with a pipeline inside: requests send changes into a channel, and are answered when theirs is done for good.
//!
//! Three clients place orders at once. Each waits for its receipt, which comes true when the order's change lies below a saved mark: mailed
//! or parked, and no crash makes it undone. One order has no address: it is parked, and its client is answered too; what is parked can
//! be looked at, mended and retried. A channel cannot be read again, so a client that got no receipt before the service died sends its order
//! again; dedup knows it by its id. Try to lengthen the checkpoint's interval, and look at the times.

use std::path::PathBuf;
use std::time::Instant;

use highwater::prelude::*;
use highwater::settings::Settings;
use serde_json::json;

/// What a web framework would call for `POST /orders`.
async fn place_order(feed: &Feed, id: &str, customer: &str, address: Option<&str>) -> Result<String> {
    let order = json!({"customer": customer, "address": address, "status": "new"});
    let change = Change::builder(id).table("orders").key(id).after(&order).build()?;
    // Waits here when the pipeline is behind: that is the service's own back-pressure.
    let receipt = feed.send_for_receipt(change).await?;
    receipt.await?;
    Ok(format!("202 accepted {id}"))
}

async fn mail(change: Change) -> Result {
    let row = change.after();
    let address = row.str("address").ok_or_else(|| Error::park("the order has no address"))?;
    println!("mail to {address}: thank you, {}", row.str("customer").unwrap_or_default());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    match serve().await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result {
    let settings = Settings { data: Some(PathBuf::from("data/embedded")), workers: Some(1), ..Settings::default() };
    let (feed, source) = Channel::bounded(1_000);
    let pipeline = highwater::start("embedded", &settings, move |flow| {
        flow.source(source.clone())
            .dedup(Dedup::within(hours(1)))
            .fan_out([action("mail", run(mail)).max_parallelism(8)])
            .checkpoint(Checkpoint::every(millis(20)));
    })?;

    let began = Instant::now();
    let orders = [("o-1", "Ada", Some("ada@example.com")), ("o-2", "Bob", None), ("o-3", "Eve", Some("eve@example.com"))];
    let clients = orders.map(|(id, customer, address)| {
        let feed = feed.clone();
        tokio::spawn(async move { place_order(&feed, id, customer, address).await })
    });
    for client in clients {
        println!("{}", client.await??);
    }
    eprintln!("answered after {:?}", began.elapsed());

    // The last feed is gone: the pipeline finishes what it has, saves, and ends.
    drop(feed);
    let report = pipeline.ended().await?;
    println!("{} read, {} mailed, {} parked", report.read, report.actions["mail"].delivered, report.actions["mail"].parked);
    Ok(())
}
