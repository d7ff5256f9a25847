//! Workers of a queue of jobs in Redis: each job is posted to a URL, by so many at once, under a lease.
//!
//! Without `--redis` it starts a Redis of its own, which ends with it, puts two hundred jobs in and prints them. With one, start it as often as you
//! like, on as many machines, and kill it when you like, even with `kill -9`: its jobs come back when their leases have ended, and others do them.
//!
//! ```sh
//! job_worker --redis redis://localhost:6379 --queue thumbnails --workers 16 --url http://127.0.0.1:8000/thumbnails
//! ```
//!
//! A pipeline puts jobs in with `action("thumbnail", RedisJobQueue::with_workers(url, 16).name("thumbnails"))`. Ctrl-C finishes what is under way and
//! gives back the rest. What cannot be done is parked: `highwater jobs list --queue redis://localhost:6379 --name thumbnails`.

use std::time::Duration;

use clap::Parser;
use highwater::log::LogSettings;
use highwater::operators::queues::Done;
use highwater::prelude::*;
use highwater::testing::redis::Server;

#[derive(Parser)]
#[command(about = "Does the jobs of a queue in Redis: posts each to a URL")]
struct Args {
    /// The Redis that the queue is in [default: a private one, with two hundred jobs]
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// The queue
    #[arg(long, value_name = "NAME", default_value = "jobs")]
    queue: String,
    /// Jobs done at once by this process
    #[arg(long, value_name = "N", default_value_t = 16)]
    workers: usize,
    /// Where each job is posted: the change in the default envelope, its id as `webhook-id`. Places may stand in its path and query:
    /// `{key}`, `{found.job.attempt}`, `{found.job.fence}` [default: jobs are printed]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Seconds for which a job is given to a worker, which renews them while it works
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    lease: f64,
    /// Attempts before a job is parked
    #[arg(long, value_name = "N", default_value_t = 5)]
    attempts: u32,
    /// The longest wait between two attempts, in seconds; the first one is a fiftieth of it
    #[arg(long, value_name = "SECONDS", default_value_t = 50.0)]
    backoff: f64,
    /// End when nothing is left in the queue
    #[arg(long)]
    until_empty: bool,
    /// How the last line says what was done
    #[arg(long, value_name = "FORM", value_parser = ["text", "json"], default_value = "text")]
    report: String,
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    highwater::log::start(&LogSettings::default());
    match work(&args) {
        Ok(done) => {
            println!("{}", report(&done, args.report == "json"));
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn work(args: &Args) -> Result<Done> {
    let private = if args.redis.is_none() { Some(Server::start()?) } else { None };
    let url = args.redis.clone().or_else(|| private.as_ref().map(|server| server.url().reveal().to_owned())).unwrap_or_default();
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).map_err(|_| Error::stop(format!("{seconds} is no time")));
    let queue = RedisJobQueue::with_workers(url, args.workers)
        .name(&args.queue)
        .lease(seconds(args.lease)?)
        .attempts(args.attempts)
        .backoff(seconds(args.backoff / 50.0)?, seconds(args.backoff)?);
    if private.is_some() {
        fill(&queue)?;
    }
    let workers = match &args.url {
        // Whoever starts the program says where it goes: to this machine too.
        Some(url) => queue.work(Webhook::post(url)).allow_private(true),
        None => queue.work(handle(|job| async move {
            println!("job {} of {}, attempt {}", job.number(), job.key(), job.attempt());
            Ok(())
        })),
    };
    if args.until_empty || private.is_some() { workers.until_empty().run() } else { workers.run() }
}

/// Puts some jobs in, in order for each of seven keys.
fn fill(queue: &JobQueue) -> Result {
    let change = |n: u32| Change::builder(format!("c-{n}")).key(format!("o-{}", n % 7)).after(&Amount { amount: n }).build();
    let jobs = (1..=200).map(|n| Ok((format!("job of c-{n}"), change(n)?))).collect::<Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let enqueued = runtime.block_on(queue.clone().ordered().enqueue_all(jobs))?;
    enqueued.into_iter().try_for_each(|enqueued| enqueued.map(drop))
}

#[derive(serde::Serialize)]
struct Amount {
    amount: u32,
}

fn report(done: &Done, as_json: bool) -> String {
    let Done { taken, returned, finished, retried, parked, refused, lost, .. } = done;
    if as_json {
        return serde_json::json!({
            "taken": taken, "returned": returned, "finished": finished, "retried": retried, "parked": parked, "refused": refused, "lost": lost,
        })
        .to_string();
    }
    format!(
        "{finished} jobs finished of {taken} taken, {returned} of which came back from workers that died; {retried} attempts repeated, {parked} jobs \
         parked, {lost} lost half-way, {refused} noted too late"
    )
}
