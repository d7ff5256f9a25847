//! Postgres as a source.

pub mod change_log;
pub mod replication;
pub mod rows;
pub mod slots;
mod tuple;

/// In a session in which rows come: where the database's encoding does not say what its text is, it is sent as it is. Converted, one row that is no
/// UTF-8 would end the session, over and over; as it is, it is found here and set aside.
const AS_IT_IS: &str =
    "select set_config('client_encoding', 'SQL_ASCII', false) where current_setting('server_encoding') = 'SQL_ASCII'";
