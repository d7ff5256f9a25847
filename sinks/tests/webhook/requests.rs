//! What is sent, and what an answer means.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use highwater_operators::ErrorKind;
use highwater_sinks::Webhook;
use hyper::Version;
use parking_lot::Mutex;

use super::certificate::Certificate;
use super::server::{Seen, Server, acceptor, reply};
use super::{call, delivery, problems};

/// A server that keeps what it saw.
async fn keeping(status: u16) -> (Server, Arc<Mutex<Vec<Seen>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = kept.clone();
    let server = Server::start(move |seen| {
        keeps.lock().push(seen);
        async move { reply(status, "") }
    });
    (server.await, kept)
}

#[tokio::test]
async fn a_change_is_posted_as_it_is_and_signed_by_the_standard() {
    let (server, seen) = keeping(204).await;
    let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
    let webhook = Webhook::post(server.url("/hook")).allow_private().signed_with(secrets[0]).signed_with(secrets[1]);
    assert_eq!(problems(&webhook), [""; 0]);
    call(&webhook, "c-1").await.unwrap();
    let seen = seen.lock().remove(0);
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.version), ("POST", "/hook", Version::HTTP_11));
    assert_eq!((seen.header("content-type"), seen.header("host")), ("application/json", server.address.to_string().as_str()));
    assert_eq!(seen.header("webhook-id"), delivery("c-1").idempotency_key());
    let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!((&body["id"], &body["key"], &body["after"]["amount"]), (&"c-1".into(), &"key/c-1".into(), &12.5.into()));
    for secret in secrets {
        standardwebhooks::Webhook::new(secret).unwrap().verify(&seen.body, &seen.headers).unwrap();
    }
    let other = standardwebhooks::Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
    assert!(other.verify(&seen.body, &seen.headers).is_err());
    assert!(standardwebhooks::Webhook::new(secrets[0]).unwrap().verify(b"{}", &seen.headers).is_err());
}

#[tokio::test]
async fn places_are_filled_and_escaped_where_they_stand() {
    let (server, kept) = keeping(200).await;
    let webhook = Webhook::put(server.url("/a b/{key}?city={after.city}&x=%20"))
        .allow_private()
        .header("x-order", "{table}:{id}")
        .body(r#"{"id": "{id}-x", "status": "is {after.status}", "raw": {after.status}, "deep": {after.deep.a}, "none": {after.no}, "t": "{{id}}"}"#);
    assert_eq!(problems(&webhook), [""; 0]);
    call(&webhook, "c").await.unwrap();
    let seen = kept.lock().remove(0);
    assert_eq!(seen.target, "/a%20b/key%2Fc?city=K%C3%B6ln%20%26%20Bonn&x=%20");
    assert_eq!((seen.method.as_str(), seen.header("x-order")), ("PUT", "orders:c"));
    assert_eq!(seen.text(), r#"{"id": "c-x", "status": "is pa\"id", "raw": "pa\"id", "deep": [1], "none": null, "t": "{id}"}"#);
    let fields = Webhook::post(server.url("/")).allow_private().with(|change, line| {
        line.field("order", change.id());
    });
    call(&fields, "c").await.unwrap();
    assert_eq!(keeps_last(&kept), r#"{"order":"c"}"#);
}

fn keeps_last(kept: &Mutex<Vec<Seen>>) -> String {
    kept.lock().pop().unwrap().text().to_owned()
}

#[tokio::test]
async fn nothing_breaks_out_of_its_place() {
    let (server, seen) = keeping(200).await;
    for (webhook, id, what) in [
        (
            Webhook::post(server.url("/")).header("x-id", "{id}"),
            "a\r\nx-evil: 1",
            "header x-id: a value holds what no header can",
        ),
        (Webhook::post(server.url("/orders/{id}/x")), "..", "a part of its path would be"),
        (Webhook::post(server.url("/orders/.{id}")), ".", "a part of its path would be"),
        (Webhook::post(server.url("/{after.none}")), "a", "URL: the change has nothing for {after.none}"),
        (Webhook::post(server.url("/")).body_max(20), "a", "at most 20 are sent"),
    ] {
        let error = call(&webhook.allow_private(), id).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Park && error.to_string().contains(what), "{error}");
    }
    let webhook = Webhook::post(server.url("/x/{id}")).allow_private();
    call(&webhook, "../../admin?a#b").await.unwrap();
    assert_eq!(seen.lock().remove(0).target, "/x/..%2F..%2Fadmin%3Fa%23b");
    assert!(seen.lock().is_empty());
}

#[test]
fn what_is_wrong_is_told_before_anything_runs() {
    for (webhook, what) in [
        (Webhook::post("example.com/hook"), "no scheme"),
        (Webhook::post("ftp://example.com/"), "neither with https:// nor with http://"),
        (Webhook::post("https://user:hunter2hunter2@example.com/"), "a user or a password"),
        (Webhook::post("https://{after.host}/"), "scheme, host and port of a URL are fixed"),
        (Webhook::post("https://example.com/{after}/{foo}"), "{foo} is nothing that a change has"),
        (Webhook::post("https://example.com/#x"), "fragment"),
        (Webhook::post("https://example.com/").body("{\"a\": {found.shop.tier}}"), "a lookup \"shop\""),
        (Webhook::post("https://example.com/").header("Webhook-Id", "1"), "set by the webhook itself"),
        (Webhook::post("https://example.com/").header("a b", "1"), "no name of a header"),
        (Webhook::post("https://example.com/").signed_with("hunter2"), "7 bytes long"),
        (Webhook::post("https://example.com/").retry_on([404]).accept([404]), "404 is said to mean two things"),
        (Webhook::post("https://example.com/").root_certificates("/none.pem"), "cannot be read"),
    ] {
        let problems = problems(&webhook);
        assert!(problems.len() == 1 && problems[0].contains(what), "{problems:?}, where {what:?} is wrong");
        assert!(!problems[0].contains("hunter2"), "{problems:?}");
    }
    let fine = Webhook::patch("https://example.com/{key}").body("{\"tier\": {found.customer.tier}}");
    assert!(problems(&fine).iter().all(|problem| problem.contains("ca-certificates")));
}

#[tokio::test]
async fn each_status_has_its_meaning_and_its_words_are_kept() {
    let status = Arc::new(AtomicU16::new(0));
    let answers = status.clone();
    let server = Server::start(move |_| {
        let status = answers.load(Ordering::SeqCst);
        async move {
            let mut reply = reply(status, format!("because\nof {}", "x".repeat(5_000)));
            if status == 429 {
                reply.headers_mut().insert("retry-after", "7".parse().unwrap());
            }
            if status == 302 {
                reply.headers_mut().insert("location", "http://169.254.169.254/".parse().unwrap());
            }
            reply
        }
    });
    let server = server.await;
    let new = || Webhook::post(server.url("/")).allow_private();
    for (code, kind) in [
        (302, ErrorKind::Park),
        (400, ErrorKind::Park),
        (404, ErrorKind::Park),
        (410, ErrorKind::Park),
        (408, ErrorKind::Retry),
        (425, ErrorKind::Retry),
        (429, ErrorKind::Retry),
        (500, ErrorKind::Retry),
        (503, ErrorKind::Retry),
    ] {
        status.store(code, Ordering::SeqCst);
        let error = call(&new(), "a").await.unwrap_err();
        let text = error.to_string();
        assert!(error.kind() == kind && text.contains(&format!("{code} ")) && text.contains("because of xxx"), "{text}");
        assert!(text.len() < 1_300, "{} bytes are kept", text.len());
        assert_eq!((error.wait(), error.was_asked()), ((code == 429).then_some(Duration::from_secs(7)), true));
    }
    status.store(302, Ordering::SeqCst);
    assert!(call(&new(), "a").await.unwrap_err().to_string().contains("redirects are not followed"));
    status.store(404, Ordering::SeqCst);
    assert_eq!(call(&new().retry_on([404]), "a").await.unwrap_err().kind(), ErrorKind::Retry);
    call(&new().accept([404]), "a").await.unwrap();
    status.store(429, Ordering::SeqCst);
    let webhook = new();
    let _ = call(&webhook, "a").await;
    let error = call(&webhook, "b").await.unwrap_err();
    assert!(!error.was_asked() && error.to_string().contains("wants to be left alone until"), "{error}");
}

#[tokio::test]
async fn secrets_are_never_shown() {
    // A server that says back all it was told.
    let echo = |seen: Seen| async move { reply(422, format!("{} {:?} {}", seen.target, seen.headers, seen.text())) };
    let server = Server::start(echo).await;
    let webhook = Webhook::post(server.url("/services/T0SECRETPATH/x?token=QUERYSECRET"))
        .allow_private()
        .header("authorization", "Bearer HEADERSECRET")
        .signed_with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let error = call(&webhook, "a").await.unwrap_err();
    let response = error.response().expect("the answer is kept for a record that is parked");
    let told = format!("{error} {error:?} {response} {webhook:?} {:?}", highwater_operators::action::Action::place(&webhook));
    for secret in ["T0SECRETPATH", "QUERYSECRET", "HEADERSECRET", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
        assert!(!told.contains(secret), "{secret} is in {told}");
    }
    assert!(told.contains("422 Unprocessable") && told.contains(&server.address.to_string()), "{told}");
}

#[tokio::test]
async fn many_calls_share_one_connection_of_http2_over_tls() {
    let certificate = Certificate::make();
    let answer = |seen: Seen| async move { reply(if seen.version == Version::HTTP_2 { 200 } else { 505 }, "") };
    let server = Server::with(Some(acceptor(&certificate, &["h2", "http/1.1"])), answer).await;
    let url = format!("https://localhost:{}/", server.address.port());
    let webhook = Webhook::post(&url).allow_private().root_certificates(certificate.root());
    assert_eq!(problems(&webhook), [""; 0]);
    let calls = (0..200).map(|n| {
        let webhook = webhook.clone();
        tokio::spawn(async move { call(&webhook, &n.to_string()).await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.connections(), 1);

    let server = Server::with(Some(acceptor(&certificate, &["http/1.1"])), |seen: Seen| async move {
        reply(if seen.version == Version::HTTP_11 { 200 } else { 505 }, "")
    });
    let url = format!("https://localhost:{}/", server.await.address.port());
    call(&Webhook::post(&url).allow_private().root_certificates(certificate.root()), "a").await.unwrap();
    // Another authority's certificate, and a name that is not in it.
    let other = Certificate::make();
    for webhook in [
        Webhook::post(&url).root_certificates(other.root()),
        Webhook::post(url.replace("localhost", "127.0.0.1")).root_certificates(certificate.root()),
    ] {
        let error = call(&webhook.allow_private(), "a").await.unwrap_err();
        assert!(error.kind() == ErrorKind::Retry && error.to_string().contains("certificate"), "{error}");
    }
}
