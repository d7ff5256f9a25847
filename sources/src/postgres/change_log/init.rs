//! The SQL that makes a change log: table, sequence, trigger, role. Run again, it changes nothing that is there.

use highwater_operators::Result;
use highwater_operators::postgres::{Connection, Table, Url, failed, quote, quote_text};

use crate::ahead::apart;

/// A change log that is to be made.
///
/// ```
/// use highwater_sources::postgres::change_log::Init;
/// let sql = Init::table("tb_entity_change_log")?.notify("tb_entity_change_log").role("highwater_reader").sql();
/// assert!(sql.contains("generated always as identity (cache 1) primary key") && sql.contains("for each statement"));
/// # Ok::<(), highwater_operators::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Init {
    table: Table,
    notify: Option<String>,
    role: Option<String>,
}

impl Init {
    /// The log in this table (`name` or `schema.name`).
    ///
    /// # Errors
    /// It is no name of a table.
    pub fn table(name: &str) -> Result<Init> {
        Ok(Init { table: Table::parse(name)?, notify: None, role: None })
    }

    /// With a trigger that notifies this channel once per statement that writes rows. Transactions that notify commit one after the other.
    pub fn notify(mut self, channel: &str) -> Self {
        self.notify = Some(channel.to_owned());
        self
    }

    /// With a role that may read the log and nothing else.
    pub fn role(mut self, name: &str) -> Self {
        self.role = Some(name.to_owned());
        self
    }

    /// The SQL.
    pub fn sql(&self) -> String {
        let table = &self.table;
        let mut sql = format!(
            "begin;\n\
             -- Ids are drawn one by one (cache 1) and by nobody but the sequence (always): so a reader knows whose they are.\n\
             create table if not exists {table} (\n    \
                 id                bigint generated always as identity (cache 1) primary key,\n    \
                 object_type       text not null,\n    \
                 object_id         text,\n    \
                 modification_type text not null,\n    \
                 object_data       jsonb,\n    \
                 created_at        timestamptz not null default now()\n\
             );\n"
        );
        let notifies = Table { name: format!("{}_notify", table.name), ..table.clone() };
        if let Some(channel) = &self.notify {
            sql.push_str(&format!(
                "-- Wakes readers, once per statement. Optional: without it they look some times a second.\n\
                 create or replace function {notifies}() returns trigger language plpgsql as $$\n\
                 begin\n    perform pg_notify(tg_argv[0], '');\n    return null;\nend\n$$;\n\
                 drop trigger if exists {trigger} on {table};\n\
                 create trigger {trigger} after insert on {table} for each statement execute function {notifies}({channel});\n",
                trigger = quote(&notifies.name),
                channel = quote_text(channel)
            ));
        }
        if let Some(role) = &self.role {
            let schema = match &table.schema {
                Some(schema) => quote_text(schema),
                None => "current_schema()".to_owned(),
            };
            let (quoted, text) = (quote(role), quote_text(&table.to_string()));
            sql.push_str(&format!(
                "-- Reads the log, and no more. Give it a password: alter role {quoted} password '...';\n\
                 do $$\n\
                 begin\n    \
                     if not exists (select from pg_roles where rolname = {name}) then\n        create role {quoted} login;\n    end if;\n    \
                     execute format('grant usage on schema %I to %I', {schema}, {name});\n    \
                     execute format('grant select on {plain} to %I', {name});\n    \
                     if pg_get_serial_sequence({text}, 'id') is not null then\n        \
                         execute format('grant select on sequence %s to %I', pg_get_serial_sequence({text}, 'id'), {name});\n    \
                     end if;\n\
                 end\n\
                 $$;\n",
                name = quote_text(role),
                plain = table.to_string().replace('\'', "''").replace('%', "%%"),
            ));
        }
        sql.push_str("commit;\n");
        sql
    }

    /// Makes it in this database.
    ///
    /// # Errors
    /// What the database says.
    pub fn apply(&self, url: &Url) -> Result {
        let (sql, url) = (self.sql(), url.clone());
        apart("change-log", move || async move {
            let connection = Connection::open(&url, "init").await?;
            connection.batch_execute(&sql).await.map_err(|error| failed("making the change log", error))
        })
    }
}
