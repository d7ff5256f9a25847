-- Version 1. All queues of the database are in one table, each under its name.

create table highwater_jobs (
    queue text not null,
    id text not null,
    number bigint generated always as identity,
    action text not null,
    -- The key whose jobs are done in order, one at a time, and whether it waits behind a parked one.
    lane text,
    hold boolean not null default false,
    -- 0 may be taken once it is due, 1 leased until it is due, 2 behind another one of its lane, 3 parked, 4 no more: its id is remembered.
    state smallint not null,
    due timestamptz not null,
    fence bigint not null default 0,
    attempts integer not null default 0,
    enqueued_at timestamptz not null default clock_timestamp(),
    parked_at timestamptz,
    cause text,
    error text,
    response text,
    job bytea not null,
    primary key (queue, id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);

create unique index highwater_jobs_number on highwater_jobs (number);
create index highwater_jobs_due on highwater_jobs (queue, due, number) where state < 2;
create index highwater_jobs_behind on highwater_jobs (queue, lane, number) where state = 2;
create index highwater_jobs_in_the_way on highwater_jobs (queue, lane) where lane is not null and (state < 2 or (state = 3 and hold));
create index highwater_jobs_parked on highwater_jobs (queue, number) where state = 3;
create index highwater_jobs_done on highwater_jobs (queue, due) where state = 4;
