//! A slot that is gone: the next run refuses, says the one way out, and that way is gone to its end, with checkpoints in a directory and in Postgres.

use highwater::testing::postgres::{Database, Server};
use highwater_examples::built::Example;
use highwater_examples::orders::Report;

struct Shop {
    source: Database,
    target: Database,
    example: Example,
    arguments: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Shop {
    fn new(slot: &str, checkpoint: &str) -> Self {
        let server = Server::shared();
        let (source, target) = (server.database().unwrap(), server.database().unwrap());
        let sql = "create table orders (id int primary key, note text); insert into orders select n, 'old' from generate_series(1, 50) n; \
                   create table items (id int primary key); insert into items values (1), (2), (3)";
        source.sql(sql).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let example = Example::built("replication", folder.path());
        let checkpoint = if checkpoint == "postgres" { target.url().reveal() } else { checkpoint };
        let arguments =
            ["--source", source.url().reveal(), "--target", target.url().reveal(), "--tables", "orders,items", "--slot", slot];
        let arguments: Vec<String> = arguments.into_iter().chain(["--checkpoint", checkpoint]).map(str::to_owned).collect();
        Shop { source, target, example, arguments, _folder: folder }
    }

    fn with<'a>(&'a self, first: &[&'a str], last: &[&'a str]) -> Vec<&'a str> {
        first.iter().copied().chain(self.arguments.iter().map(String::as_str)).chain(last.iter().copied()).collect()
    }

    /// Reads what there is.
    fn run(&self) -> Report {
        let printed = self.example.succeed(&self.with(&[], &["--until-idle", "1", "--report", "json"]));
        Report::parse(printed.lines().last().unwrap_or_default()).unwrap()
    }

    fn copied(&self) -> String {
        self.target.one("select count(*) || ' ' || count(*) filter (where note = 'new') from orders").unwrap()
    }
}

#[test]
fn a_slot_that_is_gone_is_made_anew_and_everything_is_read_again() {
    for (slot, checkpoint) in [("gone", "state"), ("gone_too", "postgres")] {
        let shop = Shop::new(slot, checkpoint);
        assert_eq!(shop.run().read, 53, "{checkpoint}");
        shop.source.sql(&format!("select pg_drop_replication_slot('{slot}')")).unwrap();
        let unseen = "insert into orders select n, 'new' from generate_series(51, 55) n; update orders set note = 'new' where id <= 3; \
                      delete from orders where id in (10, 11)";
        shop.source.sql(unseen).unwrap();
        let said = shop.example.fail(1, &shop.with(&[], &["--until-idle", "1"]));
        assert!(said.contains("there is no such slot") && said.contains("`resnapshot`"), "{said}");

        let said = shop.example.succeed(&shop.with(&["resnapshot"], &[]));
        assert!(said.contains("all tables of") && said.contains("read anew by the next run"), "{said}");
        let report = shop.run();
        // 53 rows once, and then the 53 and 3 that there are.
        assert_eq!((report.read, report.duplicate), (53 + 56, 0), "{checkpoint}: they are changes of their own");
        // What was deleted unseen is still there: nobody can tell.
        assert_eq!(shop.copied(), "55 8", "{checkpoint}");
        assert!(report.actions.values().all(|books| books.parked == 0));

        // And it goes on from there.
        shop.source.sql("update orders set note = 'new' where id = 4").unwrap();
        assert_eq!((shop.run().read, shop.copied().as_str()), (53 + 56 + 1, "55 9"), "{checkpoint}");

        // One table alone, while the slot is as it was.
        let said = shop.example.succeed(&shop.with(&["resnapshot", "items"], &[]));
        assert!(said.contains("items of"), "{said}");
        shop.source.sql("update orders set note = 'new' where id = 5").unwrap();
        assert_eq!(
            (shop.run().read, shop.copied().as_str()),
            (53 + 56 + 1 + 1 + 3, "55 10"),
            "{checkpoint}: three items and one order"
        );
    }
}

#[test]
fn a_pipeline_that_runs_or_has_nothing_is_not_read_anew() {
    for (slot, checkpoint) in [("runs", "state"), ("runs_too", "postgres")] {
        let shop = Shop::new(slot, checkpoint);
        let said = shop.example.fail(1, &shop.with(&["resnapshot"], &[]));
        assert!(said.contains("the next run reads everything anyway"), "{said}");
        let mut running = shop.example.start(&shop.with(&[], &["--report", "none", "--listen", "127.0.0.1:0"]));
        running.wait_until("it has copied", |_| shop.target.one("select count(*) from orders").is_ok_and(|count| count == "50"));
        let said = shop.example.fail(1, &shop.with(&["resnapshot"], &[]));
        assert!(said.contains("stop it first") || said.contains("in use"), "{said}");
        running.signal("TERM");
        assert!(running.wait().status.success());
    }
}
