//! Hashes of Redis as the origin of lookups: one hash for each key, a batch of keys in one pipeline.

use std::sync::Arc;

use highwater_operators::action::BoxFuture;
use highwater_operators::lookup::{Answer, Loader};
use highwater_operators::redis::{Connection, Url};
use highwater_operators::row::Fields;
use highwater_operators::{Error, Result};
use redis::{Pipeline, Value};

/// Rows that stand in Redis as hashes: the row of the key `7` is the hash `customer:7`, its fields are the hash's.
///
/// ```no_run
/// # use highwater_operators::lookup::{Cache, Lookup};
/// # use highwater_sources::RedisHash;
/// # use std::time::Duration;
/// let customers = RedisHash::at("redis://reader@cache.example/0").prefix("customer:");
/// let lookup = Lookup::by("customer_id").from(customers).cache(Cache::entries(100_000).ttl(Duration::from_secs(60)));
/// ```
///
/// A hash that is not there is no row. A key of another type is an error of that key alone: its changes are parked. A Redis that is away is asked again, as
/// often as the lookup's `attempts` say. It needs the right `+hgetall` on its keys.
#[derive(Clone)]
pub struct RedisHash {
    connection: Result<Connection, String>,
    prefix: Arc<str>,
}

impl RedisHash {
    /// Hashes in the Redis of this URL, `redis://user:password@host:port/db`, each under its key as it is.
    pub fn at(url: impl AsRef<str>) -> Self {
        let connection = Url::parse(url.as_ref()).map(|url| Connection::new(&url, "lookup"));
        RedisHash { connection: connection.map_err(|error| error.to_string()), prefix: "".into() }
    }

    /// What stands before each key.
    #[must_use]
    pub fn prefix(self, prefix: &str) -> Self {
        RedisHash { prefix: prefix.into(), ..self }
    }

    async fn ask(&self, keys: &[String]) -> Result<Vec<Answer>> {
        let connection = self.connection.as_ref().map_err(|problem| Error::stop(problem.clone()))?;
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline.cmd("HGETALL").arg([&*self.prefix, key].concat());
        }
        let what = format!("looking rows up in {}", self.place());
        let line = connection.line().await?;
        let answers = line.pipeline(&what, &pipeline).await?;
        if answers.len() != keys.len() {
            return Err(Error::retry(format!("{what}: {} answers for {} keys", answers.len(), keys.len())));
        }
        let row = |(key, answer): (&String, Value)| match &answer {
            Value::ServerError(error) if error.code() == "WRONGTYPE" => {
                Err(Error::park(format!("{what}: \"{}{key}\" is no hash", self.prefix)))
            }
            _ => {
                let fields: Vec<(Vec<u8>, Vec<u8>)> = line.answer(&what, answer)?;
                let text = |bytes| {
                    String::from_utf8(bytes)
                        .map_err(|_| Error::park(format!("{what}: \"{}{key}\" holds what is not UTF-8", self.prefix)))
                };
                let fields = fields.into_iter().map(|(name, value)| Ok((text(name)?, Some(text(value)?))));
                let fields = fields.collect::<Result<Vec<_>>>()?;
                Ok((!fields.is_empty()).then(|| Fields::new(fields)))
            }
        };
        Ok(keys.iter().zip(answers).map(row).collect())
    }
}

impl Loader for RedisHash {
    fn load<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Option<Fields>>>> {
        Box::pin(async move { self.ask(keys).await?.into_iter().collect() })
    }

    fn load_each<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Answer>>> {
        Box::pin(self.ask(keys))
    }

    fn open(&self) -> Result {
        self.connection.as_ref().map(|_| ()).map_err(|problem| Error::stop(problem.clone()))
    }

    fn place(&self) -> String {
        let url = self.connection.as_ref().map_or_else(Clone::clone, |connection| connection.url().to_string());
        format!("hashes {}* in {url}", self.prefix)
    }
}

impl std::fmt::Debug for RedisHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisHash({})", self.place())
    }
}

#[cfg(test)]
mod tests {
    use highwater_operators::testing::redis::Server;
    use highwater_operators::{ErrorKind, Row};

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn each_key_has_its_hash_and_its_own_failure() {
        let server = Server::start().unwrap();
        server.ask(&["HSET", "customer:7", "id", "7", "name", "Ada ä"]).unwrap();
        server.ask(&["SET", "customer:8", "no hash"]).unwrap();
        let origin = RedisHash::at(server.url().reveal()).prefix("customer:");
        origin.open().unwrap();
        let keys = ["7", "8", "9"].map(str::to_owned);
        let answers = block_on(origin.load_each(&keys)).unwrap();
        let row = answers[0].as_ref().unwrap().as_ref().unwrap();
        assert_eq!(Row::fields(row).str("name").as_deref(), Some("Ada ä"));
        let wrong = answers[1].as_ref().unwrap_err();
        assert!(wrong.kind() == ErrorKind::Park && wrong.to_string().ends_with("\"customer:8\" is no hash"), "{wrong}");
        assert_eq!(answers[2].as_ref().unwrap(), &None);
    }

    #[test]
    fn one_that_is_away_is_to_be_asked_again_and_no_secret_is_shown() {
        let origin = RedisHash::at("redis://me:hush@127.0.0.1:1/0");
        let error = block_on(origin.load_each(&["7".to_owned()])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
        assert!(!format!("{origin:?} {error}").contains("hush"), "{origin:?} {error}");
        assert!(RedisHash::at("http://x").open().is_err());
    }
}
