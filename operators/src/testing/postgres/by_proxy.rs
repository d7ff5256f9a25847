//! A line to a private Postgres.

use super::server::Server;
use crate::Result;
use crate::postgres::Url;
use crate::testing::Proxy;

impl Proxy {
    /// A line to a private Postgres.
    pub fn to_server(server: &Server) -> Result<Proxy> {
        Self::to(([127, 0, 0, 1], server.port()))
    }

    /// The same database by way of this line.
    pub fn url(&self, url: &Url) -> Url {
        url.at("127.0.0.1", self.address().port())
    }
}
