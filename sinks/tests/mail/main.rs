//! Mails to a real SMTP server, read as Python's parser reads them.
#![cfg(feature = "mail")]

#[path = "../support/certificate.rs"]
mod certificate;
#[path = "../support/receiver.rs"]
mod receiver;

use std::net::TcpListener;
use std::time::Duration;

use certificate::Certificate;
use highwater_operators::action::call::Planned;
use highwater_operators::action::{Action, Delivery};
use highwater_operators::{Change, ErrorKind, Result};
use highwater_sinks::Mail;
use receiver::Receiver;
use serde_json::{Value, json};

fn delivery(id: &str, after: &Value) -> Delivery {
    Delivery::alone(Change::builder(id).table("orders").key(format!("o-{id}")).after(after).build().unwrap(), 1)
}

fn mail(receiver: &Receiver) -> Mail {
    Mail::by(format!("smtp://127.0.0.1:{}", receiver.port()))
        .without_tls()
        .allow_private()
        .from("The Shop <shop@shop.example>")
        .to("{after.name} <{after.email}>")
        .subject("Order {key}: {after.status}")
        .text("Dear {after.name},\n.\nit is {after.status}.")
}

#[track_caller]
fn error(answer: &Result, kind: ErrorKind, parts: &[&str]) {
    let error = answer.as_ref().unwrap_err();
    let text = error.to_string();
    assert!(error.kind() == kind && parts.iter().all(|part| text.contains(part)), "{error:?}");
}

#[tokio::test]
async fn a_mail_says_what_the_change_says_and_has_its_key() {
    let receiver = Receiver::start(&[]);
    let html = "<p title=\"{after.name}\">Dear {after.name}</p>";
    let mail = mail(&receiver).html(html).cc("books@shop.example").reply_to("Help <help@shop.example>");
    let change = delivery("1", &json!({"name": "Zoë \"<b>\" Köhler", "email": "zoe@example.com", "status": "bezahlt ✓"}));
    mail.call(change.clone()).await.unwrap();
    mail.call(change.clone()).await.unwrap();
    let mails = receiver.mails();
    let [first, again] = &mails[..] else { panic!("{mails:?}") };
    assert_eq!((&first["id"], &first["id"]), (&again["id"], &json!(format!("<{}@shop.example>", change.idempotency_key()))));
    assert_eq!(first["from"], json!([["The Shop", "shop@shop.example"]]));
    assert_eq!(first["to"], json!([["Zoë \"<b>\" Köhler", "zoe@example.com"]]));
    assert_eq!((&first["cc"], &first["reply_to"]), (&json!([["", "books@shop.example"]]), &json!("Help <help@shop.example>")));
    assert_eq!(first["envelope"], json!(["shop@shop.example", ["zoe@example.com", "books@shop.example"]]));
    assert_eq!(first["subject"], "Order o-1: bezahlt ✓");
    assert_eq!(first["text"], "Dear Zoë \"<b>\" Köhler,\r\n.\r\nit is bezahlt ✓.");
    assert_eq!(first["html"], "<p title=\"Zoë &quot;&lt;b&gt;&quot; Köhler\">Dear Zoë &quot;&lt;b&gt;&quot; Köhler</p>");
    assert_eq!((&first["defects"], &first["ascii"]), (&json!([]), &json!(true)));
    let headers = first["headers"].to_string();
    assert!(headers.contains("auto-submitted") && headers.contains("date") && headers.contains("mime-version"), "{headers}");
}

#[tokio::test]
async fn no_value_adds_a_header_or_an_address() {
    let receiver = Receiver::start(&[]);
    let sent = mail(&receiver);
    let evil = "x\r\nBcc: all@example.com\r\n\r\nbuy";
    // What would end the mail for one server and not for another.
    let ends = ["\r\n.\r\n", "\n.\r\n", "\r.\r\n", "\n.\n", "\r.\r"];
    let smuggled = ends.map(|end| format!("a{end}MAIL FROM:<evil@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"));
    for email in
        ["a@example.com, b@example.com", "a@example.com\r\nBcc: b@example.com", "<a@example.com> b", "nobody", "a@b>\r\nDATA"]
    {
        let answer = sent.call(delivery("1", &json!({"name": "A", "email": email, "status": "new"}))).await;
        error(&answer, ErrorKind::Park, &["mail by smtp://127.0.0.1", "to: ", "is no address"]);
    }
    let names = ["a\" <evil@example.com>", "b@example.com,", evil, "Ünï\r\nTo: evil@example.com"];
    for name in names {
        let change = delivery("1", &json!({"name": name, "email": "a@example.com", "status": evil}));
        sent.call(change).await.unwrap();
    }
    for name in &smuggled {
        let change = delivery("1", &json!({"name": name, "email": "a@example.com", "status": evil}));
        sent.call(change).await.unwrap();
    }
    let mails = receiver.mails();
    assert_eq!(mails.len(), names.len() + smuggled.len());
    for mail in &mails {
        assert_eq!(mail["envelope"][1], json!(["a@example.com"]));
        assert_eq!((mail["to"].as_array().unwrap().len(), &mail["to"][0][1]), (1, &json!("a@example.com")), "{mail}");
        assert!(!mail["headers"].to_string().contains("bcc"), "{mail}");
        assert_eq!(mail["subject"], "Order o-1: x  Bcc: all@example.com    buy");
        assert_eq!(mail["defects"], json!([]));
    }
    let missing = sent.call(delivery("1", &json!({"email": "a@example.com", "status": "new"}))).await;
    error(&missing, ErrorKind::Park, &["nothing for {after.name}"]);
}

#[tokio::test]
async fn each_answer_has_its_meaning() {
    let receiver = Receiver::start(&[]);
    let mail = mail(&receiver).try_again_after(Duration::from_secs(7)).size_max(20_000);
    let to = |user: &str| delivery(user, &json!({"name": "A", "email": format!("{user}@example.com"), "status": "new"}));
    error(&mail.call(to("never")).await, ErrorKind::Park, &["550", "nobody of that name here"]);
    let later = mail.call(to("later")).await;
    error(&later, ErrorKind::Retry, &["450", "greylisted"]);
    assert_eq!(later.unwrap_err().wait(), Some(Duration::from_secs(7)));
    mail.call(to("later")).await.unwrap();
    error(&mail.call(to("full")).await, ErrorKind::Retry, &["452", "the mailbox is full"]);
    let closing = mail.call(to("closing")).await;
    error(&closing, ErrorKind::Retry, &["421"]);
    assert_eq!(closing.unwrap_err().wait(), None);
    mail.call(to("ada")).await.unwrap();
    let long = delivery("long", &json!({"name": "x".repeat(30_000), "email": "a@example.com", "status": "new"}));
    error(&mail.call(long).await, ErrorKind::Park, &["at most 20000", "size_max"]);
    assert_eq!(receiver.mails().len(), 2);
}

#[tokio::test]
async fn over_tls_with_a_login_and_never_the_password_in_the_clear() {
    let (certificate, other) = (Certificate::make(), Certificate::make());
    let [own, key] = ["own.crt", "own.key"].map(|name| certificate.file(name).display().to_string());
    for (tls, scheme) in [("starttls", "smtp"), ("tls", "smtps")] {
        let receiver = Receiver::start(&[tls, &own, &key, "login", "shop", "s3cret-words"]);
        let by = |password: &str| {
            Mail::by(format!("{scheme}://localhost:{}", receiver.port()))
                .login("shop", password)
                .allow_private()
                .from("shop@shop.example")
                .to("ada@example.com")
                .subject("{key}")
                .text("x")
        };
        let mail = by("s3cret-words").root_certificates(certificate.root());
        mail.call(delivery("1", &json!({}))).await.unwrap();
        let mails = receiver.mails();
        assert_eq!((&mails[0]["tls"], &mails[0]["user"]), (&json!(true), &json!("shop")));
        // Nothing was asked of it: all mails wait until it lets us in.
        let wrong = by("guessed-word").root_certificates(certificate.root()).call(delivery("1", &json!({}))).await;
        error(&wrong, ErrorKind::Retry, &["does not let us in", "535", "are user and password right?"]);
        assert!(!wrong.as_ref().unwrap_err().was_asked() && !wrong.unwrap_err().to_string().contains("guessed"));
        let untrusted = by("s3cret-words").root_certificates(other.root()).call(delivery("1", &json!({}))).await;
        error(&untrusted, ErrorKind::Retry, &["certificate"]);
        assert_eq!(receiver.mails().len(), 1);
    }
    // A server that offers no TLS gets nothing.
    let clear = Receiver::start(&[]);
    let mail = Mail::by(format!("smtp://localhost:{}", clear.port())).allow_private().from("a@b.example").to("c@d.example");
    let answer = mail.subject("x").text("x").root_certificates(certificate.root()).call(delivery("1", &json!({}))).await;
    error(&answer, ErrorKind::Retry, &["STARTTLS is not supported"]);
    assert!(clear.mails().is_empty());
}

#[tokio::test]
async fn connections_are_used_again_and_addresses_checked() {
    let receiver = Receiver::start(&[]);
    let kept = mail(&receiver).max_connections(1);
    let name = format!("mail at smtp://127.0.0.1:{}", receiver.port());
    let good = |n: u32| delivery(&n.to_string(), &json!({"name": "A", "email": "a@example.com", "status": "new"}));
    for n in 0..10 {
        kept.call(good(n)).await.unwrap();
    }
    let status = highwater_operators::pools::all()[&name];
    assert_eq!((status.opened, status.used, status.idle, status.active), (1, 10, 1, 0));
    let brief = mail(&receiver).idle_timeout(Duration::from_millis(20));
    brief.call(good(1)).await.unwrap();
    let began = std::time::Instant::now();
    // Shown together with the one that is kept.
    while highwater_operators::pools::all()[&name].idle > 1 {
        assert!(began.elapsed() < Duration::from_secs(30), "an idle connection is closed when its time is over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let private = Mail::by(format!("smtp://localhost:{}", receiver.port())).without_tls().from("a@b.example").to("c@d.example");
    let answer = private.subject("x").text("x").call(good(1)).await;
    error(&answer, ErrorKind::Park, &["loopback", "allow_private"]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let away = Mail::by(format!("smtp://127.0.0.1:{nobody}")).without_tls().allow_private().from("a@b.example").to("c@d.example");
    let away = away.subject("x").text("x");
    for _ in 0..5 {
        error(&away.call(good(1)).await, ErrorKind::Retry, &["refused"]);
    }
    assert!(!away.call(good(1)).await.unwrap_err().was_asked(), "the breaker is open");
}

#[test]
fn what_is_wrong_is_told_before_anything_runs_and_no_secret_is_shown() {
    let planned = Planned { lookups: &["customer"], allow_private: false };
    let problems = |mail: Mail| mail.problems(&planned).join("\n");
    for (server, part) in [
        ("mail.example", "no scheme"),
        ("http://mail.example", "neither with smtp://"),
        ("smtp://ada:hunter2@mail.example", ".login(user, password)"),
        ("smtp://mail.example/path", "nothing follows"),
        ("smtp://2130706433", "loopback"),
        ("smtp://mail.example:x", "cannot be read"),
    ] {
        let said = problems(Mail::by(server).without_tls());
        assert!(said.contains(part) && !said.contains("hunter2"), "{server}: {said}");
    }
    let said =
        problems(Mail::by("smtp://mail.example").without_tls().login("ada", "hunter2").to("{found.nobody.email}").from("no one"));
    for part in ["in the clear", "lookup \"nobody\"", "\"no one\" is no address", "a subject: .subject(..)", "a body"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mail =
        Mail::by("smtp://mail.example").login("ada", "hunter2").from("a@b.example").to("{found.customer.email}").subject("x");
    let mail = mail.text("x");
    assert!(!format!("{mail:?} {:?}", mail.place()).contains("hunter2"));
    assert_eq!(mail.place().as_deref(), Some("mail by smtp://mail.example:587"));
}
