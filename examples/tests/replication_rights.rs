//! A role that has what `docs/replication.md` says, and no more, by TLS with `verify-full` and SCRAM: for statements and for the stream.

use highwater::testing::postgres::Server;
use highwater_examples::built::Example;

const ROLE: &str = "repl_reader";

#[test]
fn a_role_with_the_least_rights_reads_by_tls_and_scram() {
    let server = Server::start().unwrap();
    let (source, target) = (server.database().unwrap(), server.database().unwrap());
    server.user(ROLE, "a pass:word/é").unwrap();
    let name = source.name();
    let owner = format!(
        "create table orders (id int primary key, note text); insert into orders select n, 'old' from generate_series(1, 100) n; \
         create publication orders_pub for table orders; \
         revoke all on database {name} from public; revoke all on schema public from public; \
         grant connect on database {name} to {ROLE}; grant usage on schema public to {ROLE}"
    );
    source.sql(&owner).unwrap();
    let authority = server.root_certificate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Who runs the server need not let us into its folder.
    let certificate = folder.path().join("root.crt");
    std::fs::copy(authority, &certificate).unwrap();
    let parameters = format!("sslmode=verify-full&sslrootcert={}", certificate.display());
    let url = source.url_of(ROLE, "a pass:word/é", &parameters).unwrap();
    let example = Example::built("replication", folder.path());
    let arguments = |more: &[&'static str]| -> Vec<String> {
        let fixed = ["--source", url.reveal(), "--target", target.url().reveal(), "--tables", "orders", "--slot", "least"];
        let rest = ["--publication", "orders_pub", "--checkpoint", "state", "--report", "none"];
        fixed.iter().chain(&rest).chain(more).map(|text| (*text).to_owned()).collect()
    };
    let all = arguments(&[]);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();

    // What is missing is named, with what mends it.
    let said = example.fail(1, &all);
    assert!(said.contains("may not read by replication") && said.contains(&format!("alter role {ROLE} replication")), "{said}");
    server.sql(&format!("alter role {ROLE} replication")).unwrap();
    let said = example.fail(1, &all);
    assert!(said.contains("permission denied for table orders") && said.contains("grant"), "{said}");
    source.sql(&format!("grant select on orders to {ROLE}")).unwrap();

    let mut running = example.start(&all);
    let copied = |count: &str| target.one("select count(*) from orders").is_ok_and(|found| found == count);
    running.wait_until("what was there is read", |_| copied("100"));
    source.sql("insert into orders values (101, 'new')").unwrap();
    running.wait_until("what comes is read", |_| copied("101"));
    let sessions = format!(
        "select a.backend_type || ' ' || s.ssl from pg_stat_activity a join pg_stat_ssl s using (pid) where a.usename = '{ROLE}' group by 1 order by 1"
    );
    running.wait_until("it follows", |_| {
        source.sql(&sessions).unwrap().iter().map(|row| row[0].clone().unwrap()).eq(["client backend true", "walsender true"])
    });
    running.signal("TERM");
    assert!(running.wait().status.success());
    // The same name, and a certificate that is not of it.
    let other = url.reveal().replace("localhost", "127.0.0.1");
    let wrong: Vec<&str> = all.iter().map(|text| if *text == url.reveal() { other.as_str() } else { text }).collect();
    let said = example.fail(1, &wrong);
    assert!(said.contains("certificate"), "{said}");
}
