//! A receiver of webhooks as a process of its own, for tests: what has come is in a file before it is answered, and it can be told to be slow,
//! to refuse, to tell what it was told, and to kill whoever sends.
//!
//! `receiver FILE` prints its port, then obeys lines on its standard input, each with a line in answer: how many requests have come, and how
//! many connections. It ends with its input. What the lines are, and how the file is read: `highwater_examples::receiver`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use std::{env, thread};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
/// As a delay: no answer at all, the connection is closed.
const REFUSES: u64 = u64::MAX;

struct Receiver {
    book: Mutex<Book>,
    /// Connections that are open.
    open: Mutex<u64>,
    closed: Condvar,
    connections: AtomicU64,
    /// Before each answer, in milliseconds.
    delay_ms: AtomicU64,
    /// Whether every request is refused, with all of its head in the answer.
    echoes: AtomicBool,
}

struct Book {
    file: File,
    requests: u64,
    /// Which process is killed when so many requests have come, before the last of them is answered.
    kill: Option<(String, u64)>,
}

fn main() -> io::Result<()> {
    let path = env::args().nth(1).ok_or_else(|| io::Error::other("usage: receiver FILE"))?;
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let receiver = Arc::new(Receiver {
        book: Mutex::new(Book { file, requests: 0, kill: None }),
        open: Mutex::new(0),
        closed: Condvar::new(),
        connections: AtomicU64::new(0),
        delay_ms: AtomicU64::new(0),
        echoes: AtomicBool::new(false),
    });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let accepts = receiver.clone();
    thread::spawn(move || accepts.accept(&listener));
    for line in io::stdin().lines() {
        receiver.obey(&line?);
        println!("{} {}", receiver.book().requests, receiver.connections.load(SeqCst));
    }
    Ok(())
}

impl Receiver {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn obey(&self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["slow", ms] => self.delay_ms.store(ms.parse().unwrap_or_default(), SeqCst),
            ["echo"] => self.echoes.store(true, SeqCst),
            ["refuse"] => self.delay_ms.store(REFUSES, SeqCst),
            ["kill", process, requests] => self.book().kill = Some(((*process).to_owned(), requests.parse().unwrap_or_default())),
            // All that a dead sender has left in the kernel is in the file when its connections are closed.
            ["settle"] => {
                let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                drop(self.closed.wait_while(open, |open| *open > 0));
                self.book().kill = None;
            }
            _ => {}
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            self.connections.fetch_add(1, SeqCst);
            if self.delay_ms.load(SeqCst) == REFUSES {
                continue;
            }
            *self.open.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            let receiver = self.clone();
            thread::spawn(move || {
                let _ = receiver.serve(stream);
                *receiver.open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
                receiver.closed.notify_all();
            });
        }
    }

    /// Answers until the other side goes away.
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut line, mut entry) = (String::new(), Vec::new());
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut head = line.clone();
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let (mut length, mut key) = (0, String::new());
            loop {
                line.clear();
                reader.read_line(&mut line)?;
                head.push_str(&line);
                let Some((name, value)) = line.trim_end().split_once(": ") else { break };
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.parse().map_err(io::Error::other)?,
                    "webhook-id" => value.clone_into(&mut key),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let delay = self.delay_ms.load(SeqCst);
            if delay == REFUSES {
                return Ok(());
            }
            entry.clear();
            write!(entry, "{path}\t{key}\t")?;
            entry.extend_from_slice(&body);
            entry.push(b'\n');
            self.note(&entry)?;
            if delay > 0 {
                thread::sleep(Duration::from_millis(delay));
            }
            if self.echoes.load(SeqCst) {
                let length = head.len();
                stream.write_all(format!("HTTP/1.1 422 No\r\ncontent-length: {length}\r\n\r\n{head}").as_bytes())?;
            } else {
                stream.write_all(ANSWER)?;
            }
        }
    }

    /// Writes down what came. Nothing is answered while it kills.
    fn note(&self, entry: &[u8]) -> io::Result<()> {
        let mut book = self.book();
        book.file.write_all(entry)?;
        book.requests += 1;
        let requests = book.requests;
        if let Some((process, _)) = book.kill.take_if(|(_, at)| *at <= requests) {
            Command::new("kill").args(["-9", &process]).status()?;
        }
        Ok(())
    }
}
