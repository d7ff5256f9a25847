//! A run takes over from another, and what nobody can fence is done by one of them at a time.
//!
//! Ten thousand changes, one message each, sent by UDP: a receiver that asks for no generation, as mail and webhooks ask for none. Checkpoints
//! are in Postgres, where a run holds a lease while it may act. Start the example, stop it with SIGSTOP, start it a second time: the second
//! run waits until the first one's lease has ended, and goes on where the ledger ends. Let the first go on with SIGCONT: it was replaced, sends
//! nothing more, and ends with a sentence. Kill it instead, and the second run need not wait: the process is seen to be gone.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use highwater::prelude::*;

#[derive(clap::Args, Clone)]
struct Args {
    /// Where messages go
    #[arg(long, default_value = "127.0.0.1:9999")]
    to: SocketAddr,
    /// Changes there are
    #[arg(long, default_value_t = 10_000)]
    changes: u64,
    /// Changes a second
    #[arg(long, default_value_t = 500)]
    rate: u64,
}

fn main() -> highwater::Exit {
    highwater::main_with("failover", |flow, args: &Args| -> Result {
        let (socket, to) = (Arc::new(UdpSocket::bind("127.0.0.1:0")?), args.to);
        let send = move |change: Change| {
            let socket = socket.clone();
            async move {
                socket.send_to(format!("{} {}", std::process::id(), change.id()).as_bytes(), to)?;
                Ok(())
            }
        };
        flow.source(Generator::new(1).changes(args.changes).rate(args.rate))
            .fan_out([action("send", run(send)).max_parallelism(8)])
            .checkpoint(Checkpoint::every(millis(200)));
        Ok(())
    })
}
