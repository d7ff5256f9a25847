//! Private servers start, suffer and go.

use highwater_operators::postgres::{Connection, Pool, PoolConfig};
use highwater_operators::testing::postgres::Server;

#[tokio::test]
async fn a_server_starts_and_each_test_has_a_database() {
    let (one, two) = (Server::shared().database().unwrap(), Server::shared().database().unwrap());
    one.sql("create table item(id int); insert into item values (7)").unwrap();
    assert_eq!(one.one("select id from item").unwrap(), "7");
    assert_eq!(two.one("select count(*) from pg_class where relname = 'item'").unwrap(), "0");
    assert_eq!(one.one("show wal_level").unwrap(), "logical");
    let pool = Pool::new(one.url(), PoolConfig::default(), "tests").unwrap();
    assert_eq!(pool.get().await.unwrap().query_one("select id from item", &[]).await.unwrap().get::<_, i32>(0), 7);
    let mut listener = Connection::open(one.url(), "listening").await.unwrap();
    listener.batch_execute("listen c").await.unwrap();
    one.sql("notify c, 'x'").unwrap();
    assert_eq!(listener.notified().await.unwrap().payload(), "x");
}
