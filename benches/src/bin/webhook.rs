//! A webhook beside a bare client of hyper, against the same server, in turns: requests a second of one webhook, and changes a second with three
//! webhooks for each; and the time of the processor that a request takes on this side, which says more where others use the machine too. The
//! server is a process of its own, as lean as can be.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use clap::Parser;
use comfy_table::{Table, presets};
use highwater::prelude::*;
use highwater::run::{Control, run as run_pipeline};
use highwater::settings::Settings;
use highwater_benches::measure::{Outcome, Stopwatch, Took, median, range, thousands};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Sends changes made from a seed by webhooks of a pipeline, and as many requests with the same body by hyper's client alone, and prints the medians.
#[derive(Parser)]
struct Flags {
    /// Changes in each run
    #[arg(long, default_value_t = 200_000)]
    changes: u64,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Requests under way at once, of each webhook; as many connections
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// Changes of each webhook that may be between the request and the durable note of its outcome; else as many as requests
    #[arg(long)]
    max_parallelism: Option<usize>,
    /// Workers
    #[arg(long, default_value_t = 1)]
    workers: u64,
    /// Only one of the two: webhooks for each change
    #[arg(long)]
    only: Option<usize>,
    /// Only the pipeline, for a profiler
    #[arg(long)]
    no_floor: bool,
    /// Be the server
    #[arg(long, hide = true)]
    serve: bool,
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn main() -> Outcome {
    let flags = Flags::parse();
    if flags.serve {
        return serve();
    }
    let mut server = Server::start()?;
    // One change, for the body that all have.
    pipeline(&Flags { changes: 1, ..flags.shape() }, 1, server.port)?;
    let body = Bytes::from(server.body()?);
    println!("bodies of {} bytes, {} requests of each webhook at once, {} changes", body.len(), flags.in_flight, flags.changes);
    let mut table = Table::new();
    let header = [
        "webhooks for each change",
        "bare client, changes/s",
        "pipeline, changes/s",
        "pipeline / bare",
        "processor us per request: bare",
        "pipeline",
    ];
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    for hooks in [1, 3] {
        if flags.only.is_some_and(|only| only != hooks) {
            continue;
        }
        let (mut floor, mut through) = (Vec::new(), Vec::new());
        let (mut floor_cpu, mut through_cpu) = (Vec::new(), Vec::new());
        let keep = |took: Took, rates: &mut Vec<f64>, cpu: &mut Vec<f64>| {
            rates.push(flags.changes as f64 / took.seconds);
            cpu.push(took.cpu_seconds * 1e6 / (flags.changes * hooks as u64) as f64);
        };
        for _ in 0..flags.repetitions {
            if !flags.no_floor {
                keep(bare(&flags, hooks, server.port, &body)?, &mut floor, &mut floor_cpu);
            }
            keep(pipeline(&flags, hooks, server.port)?, &mut through, &mut through_cpu);
        }
        let told = |rates: &[f64]| format!("{} {}", thousands(median(rates)), range(rates, 0));
        let ratio = format!("{:.2}", median(&through) / median(&floor));
        let cpu = [&floor_cpu, &through_cpu].map(|cpu| format!("{:.1}", median(cpu)));
        table.add_row([hooks.to_string(), told(&floor), told(&through), ratio].into_iter().chain(cpu));
    }
    println!("{table}");
    Ok(())
}

impl Flags {
    fn shape(&self) -> Flags {
        Flags { only: None, no_floor: false, serve: false, ..*self }
    }
}

/// One run of a pipeline, from its start to its end. Returns what it took.
fn pipeline(flags: &Flags, hooks: usize, port: u16) -> Outcome<Took> {
    let folder = tempfile::tempdir()?;
    let settings = Settings { data: Some(folder.path().join("data")), workers: Some(flags.workers), ..Settings::default() };
    let (changes, in_flight) = (flags.changes, flags.in_flight);
    let max_parallelism = flags.max_parallelism.unwrap_or(in_flight);
    let build: highwater::run::Build = Arc::new(move |flow: &Flow<'_>| {
        let hook = |n| {
            let hook = Webhook::post(format!("http://127.0.0.1:{port}/{n}")).allow_private().max_connections(in_flight);
            action(format!("hook-{n}"), hook).max_parallelism(max_parallelism)
        };
        flow.source(Generator::new(7).changes(changes).keys(100_000))
            .fan_out((1..=hooks).map(hook))
            .checkpoint(Checkpoint::every(millis(200)).batch_size(1_000_000));
        Ok(())
    });
    let watch = Stopwatch::start();
    let report = run_pipeline("webhook", &settings, &build, &Control::default()).map_err(|error| error.to_string())?;
    let took = watch.took();
    assert!(report.actions.values().all(|books| books.delivered == changes), "not all was delivered");
    Ok(took)
}

/// As many requests by bare connections, each with the next when it has its answer. Returns what that took.
fn bare(flags: &Flags, hooks: usize, port: u16, body: &Bytes) -> Outcome<Took> {
    // As the pipeline's.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let watch = Stopwatch::start();
    runtime.block_on(async {
        let mut connections = Vec::new();
        for hook in 1..=hooks {
            let left = Arc::new(AtomicU64::new(flags.changes));
            for _ in 0..flags.in_flight {
                let sends = send_each(port, format!("/{hook}"), left.clone(), body.clone());
                connections.push(tokio::spawn(async move { sends.await.map_err(|error| error.to_string()) }));
            }
        }
        for connection in connections {
            connection.await??;
        }
        Outcome::Ok(())
    })?;
    Ok(watch.took())
}

async fn send_each(
    port: u16,
    path: String,
    left: Arc<AtomicU64>,
    body: Bytes,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static("highwater/0.1"));
    headers.insert("webhook-id", HeaderValue::from_static("0123456789abcdef0123456789abcdef"));
    headers.insert("webhook-timestamp", HeaderValue::from_static("1795741038"));
    headers.insert(HOST, HeaderValue::from_str(&format!("127.0.0.1:{port}"))?);
    while left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let mut request = Request::post(&path).body(Full::new(body.clone()))?;
        *request.headers_mut() = headers.clone();
        let response = sender.send_request(request).await?;
        assert!(response.status().is_success());
        response.into_body().collect().await?;
        sender.ready().await?;
    }
    Ok(())
}

/// The server, seen from here.
struct Server {
    child: Child,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
    port: u16,
}

impl Server {
    fn start() -> Outcome<Self> {
        let mut child =
            Command::new(std::env::current_exe()?).arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (asks, says) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        let mut server = Server { child, asks, says: BufReader::new(says), port: 0 };
        server.port = server.line()?.parse()?;
        Ok(server)
    }

    /// The body that came last.
    fn body(&mut self) -> Outcome<String> {
        writeln!(self.asks)?;
        self.line()
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers every request, on one thread, as long as its input is open. It looks for the end of the head and for the length of the body, no more.
fn serve() -> Outcome {
    let last: Arc<Mutex<Vec<u8>>> = Arc::default();
    let keeps = last.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    println!("{}", listener.local_addr()?.port());
    std::thread::spawn(move || {
        runtime.block_on(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, keeps.clone()));
            }
        });
    });
    for _ in io::stdin().lines() {
        println!("{}", String::from_utf8_lossy(&last.lock().unwrap_or_else(PoisonError::into_inner)));
    }
    Ok(())
}

async fn answer(stream: TcpStream, last: Arc<Mutex<Vec<u8>>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut filled, mut is_first) = (vec![0; 16 << 10], 0, true);
    loop {
        match stream.try_read(&mut buffer[filled..]) {
            Ok(0) => return Ok(()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.readable().await?;
                continue;
            }
            Err(error) => return Err(error),
        }
        while let Some((head, end)) = request(&buffer[..filled]) {
            if std::mem::take(&mut is_first) {
                buffer[head..end].clone_into(&mut last.lock().unwrap_or_else(PoisonError::into_inner));
            }
            buffer.copy_within(end..filled, 0);
            filled -= end;
            // An answer is far smaller than the room that the kernel has for it.
            stream.try_write(ANSWER)?;
        }
    }
}

/// Where the head and where the body of a request end, if all of it is there.
fn request(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let name = b"content-length: ";
    let length = &bytes[memchr::memmem::find(&bytes[..head], name)? + name.len()..];
    let digits = length.iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    (bytes.len() >= head + length).then_some((head, head + length))
}
