use super::*;

fn parse(text: &str, env: &[(&str, &str)]) -> Result<Url> {
    Url::parse_with(text, |name| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
}

#[test]
fn all_parts_are_read_and_secrets_are_not_shown() {
    let url = parse("postgresql://ad%61:p%40ss@[::1]:1,two:2,three/sh%6fp?options=-c%20x%3Dsecret&port=7", &[]).unwrap();
    assert_eq!(url.to_string(), "postgres://ada@::1:1,two:2,three:7/shop");
    assert_eq!(format!("{url:?}"), "Url(postgres://ada@::1:1,two:2,three:7/shop)");
    let config = url.config("tests").unwrap();
    assert_eq!(config.get_password(), Some(&b"p@ss"[..]));
    assert_eq!(config.get_ports(), [1, 2, 7]);
    assert_eq!(config.get_options(), Some("-c x=secret"));
    assert_eq!(config.get_application_name(), Some("highwater tests"));
}

#[test]
fn what_is_left_out_comes_from_the_environment() {
    let env = [("PGHOST", "h"), ("PGPORT", "9"), ("PGUSER", "u"), ("PGPASSWORD", "p"), ("PGDATABASE", "d")];
    let url = parse("postgres://", &env).unwrap();
    assert_eq!(url.to_string(), "postgres://u@h:9/d");
    assert_eq!(url.config("x").unwrap().get_password(), Some(&b"p"[..]));
    assert_eq!(parse("postgres://", &[]).unwrap().to_string(), "postgres://postgres@localhost:5432/postgres");
}

#[test]
fn another_address_keeps_all_else() {
    let url = parse("postgres://a:b%2F@x:1,y/d?sslmode=disable", &[]).unwrap().at("127.0.0.1", 5);
    assert_eq!(url.reveal(), "postgres://a:b%2F@127.0.0.1:5/d?sslmode=disable");
    assert_eq!(url.to_string(), "postgres://a@127.0.0.1:5/d");
    assert_eq!(parse("postgres:///d?host=/run/pg", &[]).unwrap().to_string(), "postgres://postgres@/run/pg:5432/d");
}

#[test]
fn no_error_repeats_what_may_be_a_password() {
    for text in [
        "mysql://a:S3cret@h/d",
        "postgres://a:S3cret/x@h/d",
        "postgres://a:%S3cret@h/d",
        "postgres://a:b?S3cret=@h/d",
        "postgres://a@h/d?sslmode=S3cret",
        "postgres://a@h/d?port=S3cret",
        "postgres://a@h/d?connect_timeout=S3cret",
    ] {
        let error = parse(text, &[]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Stop);
        assert!(!error.to_string().contains("S3cret"), "{error}");
    }
    let error = parse("postgres://h/d?sslmod=require", &[]).unwrap_err().to_string();
    assert!(error.contains("`sslmod`") && error.contains("sslmode,"), "{error}");
}
