use super::*;
use crate::ErrorKind;
use crate::testing::postgres::Server;

fn block_on<T>(task: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task)
}

/// Logs in by every way that the URL may say, as a role that may do no more than replicate.
#[test]
fn sessions_are_opened_by_tls_socket_and_password() {
    let server = Server::shared();
    let database = server.database().unwrap();
    server.user("wire", "s3cret@").unwrap();
    server.sql("alter role wire replication").unwrap();
    let root = server.root_certificate().unwrap();
    let socket =
        format!("postgres://postgres@/{}?host={}&port={}", database.name(), server.socket_folder().display(), server.port());
    let urls = [
        database.url_of("wire", "s3cret@", "sslmode=disable"),
        database.url_of("wire", "s3cret@", &format!("sslmode=verify-full&sslrootcert={}", root.display())),
        database.url_of("wire", "s3cret@", "sslmode=require&application_name=mine"),
        Url::parse(&socket),
    ];
    for url in urls {
        let url = url.unwrap();
        block_on(async {
            let mut session = Walsender::open(&url, "test").await.unwrap_or_else(|error| panic!("{url}: {error}"));
            let rows = session.query("IDENTIFY_SYSTEM").await.unwrap();
            assert_eq!(rows[0][3].as_deref(), Some(database.name()));
            let refused = session.query("select 1/0").await.unwrap_err().to_string();
            assert!(refused.contains("division by zero (SQLSTATE 22012)"), "{refused}");
            let rows = session.query("show application_name").await.unwrap();
            assert!(rows[0][0].as_ref().is_some_and(|name| name.ends_with(" test")), "{rows:?}");
        });
    }
    for (url, why) in [
        (database.url_of("wire", "wrong", "sslmode=disable"), "the password is wrong"),
        (database.url_of("wire", "s3cret@", "sslmode=verify-full"), "TLS cannot be used"),
    ] {
        let error = block_on(Walsender::open(&url.unwrap(), "test")).unwrap_err();
        assert!(error.kind() == ErrorKind::Stop && error.to_string().contains(why), "{error}");
    }
}

#[test]
fn bytes_that_are_no_messages_are_refused() {
    let mut frames = Frames::default();
    frames.room().extend_from_slice(b"d\0\0\0\x06ab");
    frames.room().extend_from_slice(b"d\0\0\0");
    assert_eq!(frames.take().unwrap().map(|frame| frame.body.to_vec()), Some(b"ab".to_vec()));
    assert!(frames.take().unwrap().is_none());
    frames.room().extend_from_slice(b"\x03");
    assert!(frames.take().is_err());
    assert!(frame::row(b"\0\x01\0\0\0\x05ab").is_none());
    assert_eq!(frame::row(b"\0\x02\xff\xff\xff\xff\0\0\0\x01a"), Some(vec![None, Some("a".to_owned())]));
}
