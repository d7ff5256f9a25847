//! A Redis of the example's own, somebody who adds orders there, and somebody who has left before all was done.

use std::sync::OnceLock;
use std::thread;

use highwater::operators::checkpoint::embedded::DataDirectory;
use highwater::prelude::*;
use highwater::testing::redis::Server;

use crate::Args;

static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();

/// Starts it, if no other is named, and lets orders be added.
pub fn prepare(args: &Args) -> Result {
    if args.source.is_some() {
        return Ok(());
    }
    let server = server()?;
    let stream = &args.streams[0];
    for order in 1..=5 {
        add(server, stream, order)?;
    }
    if args.group != "none" {
        // Another program was given four of them, and has acknowledged three when it left.
        server.ask(&["XGROUP", "CREATE", stream, &args.group, "0"])?;
        server.ask(&["XREADGROUP", "GROUP", &args.group, "other", "COUNT", "4", "STREAMS", stream, ">"])?;
        server.ask(&["XACK", stream, &args.group, "1-1", "3-1", "4-1"])?;
    }
    let stream = stream.clone();
    thread::spawn(move || {
        for order in 6..=20 {
            if let Err(error) = add(server, &stream, order) {
                return eprintln!("orders cannot be added: {error}");
            }
        }
    });
    Ok(())
}

/// Its URL.
pub fn url() -> Result<String> {
    Ok(server()?.url().reveal().to_owned())
}

/// It is a new one each time, and so are checkpoints.
pub fn store() -> Result<DataDirectory> {
    let name = format!("highwater-redis-stream-{}", std::process::id());
    server().map(|_| DataDirectory::at(std::env::temp_dir().join(name)))
}

fn server() -> Result<&'static Server> {
    let started = SERVER.get_or_init(|| Server::start().map_err(|error| error.to_string()));
    started
        .as_ref()
        .map_err(|error| Error::stop(format!("--source names no server, and a private one cannot be started: {error}")))
}

fn add(server: &Server, stream: &str, order: u64) -> Result {
    let change = format!(
        r#"{{"id":"c-{order}","table":"orders","op":"insert","key":"order-{order}","ts":1700000000000,"after":{{"status":"new"}}}}"#
    );
    server.ask(&["XADD", stream, &format!("{order}-1"), "change", &change]).map(drop)
}
