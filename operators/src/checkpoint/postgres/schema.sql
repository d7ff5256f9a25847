-- Version 1. Names of tables are kept; every one begins with the pipeline's name, listener_id.

create table observer_checkpoints (
    listener_id text primary key,
    generation bigint not null,
    processes integer not null default 1,
    state_id bytea not null,
    next_parked bigint not null default 1,
    save_number bigint,
    epoch bigint,
    mark jsonb,
    books jsonb,
    files jsonb,
    state_from jsonb,
    state_floor jsonb,
    all_ended boolean,
    saved_generation bigint,
    saved_at timestamptz,
    started_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- One row per process of the run that may write. A group of writes raises group_number in the same statement: that is the
-- fence, and by the number a group is known again whose answer was lost.
create table observer_processes (
    listener_id text not null,
    process integer not null,
    generation bigint not null,
    group_number bigint not null default 0,
    last_parked bigint not null default 0,
    primary key (listener_id, process)
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Outcomes above the mark, in chunks of one group each: 0 noted, 1 forgotten, 2 noted by earlier runs.
create table observer_ledger (
    listener_id text not null,
    generation bigint not null,
    process integer not null,
    sequence bigint not null,
    kind smallint not null,
    last_epoch bigint not null,
    notes bytea not null,
    primary key (listener_id, generation, process, sequence, kind)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
alter table observer_ledger alter column notes set storage external;

-- What operators remember, as it came with each save.
create table observer_state (
    listener_id text not null,
    operator text not null,
    save_number bigint not null,
    sequence integer not null,
    piece integer not null,
    bytes bytea not null,
    primary key (listener_id, operator, save_number, sequence, piece)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
alter table observer_state alter column bytes set storage external;

-- Changes set aside. The columns up to key are for people; head and record are what the pipeline reads.
create table observer_parked (
    listener_id text not null,
    id bigint not null,
    action text not null,
    cause text not null,
    error text not null,
    attempts bigint not null,
    parked_at timestamptz not null,
    change_id text not null,
    key text not null,
    head bytea not null,
    record bytea not null,
    primary key (listener_id, id)
);
alter table observer_parked alter column record set storage external;

-- How many parked changes ended, and how, since the pipeline began.
create table observer_resolved (
    listener_id text not null,
    process integer not null,
    action text not null,
    delivered bigint not null,
    dropped bigint not null,
    primary key (listener_id, process, action)
);

create table observer_partitions (
    listener_id text not null,
    partition bigint not null,
    name text not null,
    primary key (listener_id, partition)
);

create table observer_actions (
    listener_id text not null,
    number integer not null,
    name text not null,
    primary key (listener_id, number),
    unique (listener_id, name)
);

-- What people ask of parked changes.
create table observer_requests (
    listener_id text not null,
    id bigint generated always as identity,
    request jsonb not null,
    asked_at timestamptz not null default now(),
    primary key (listener_id, id)
);

-- Who may act: one row per process of a run, and of runs before it until they are known to act no more.
create table observer_leases (
    listener_id text not null,
    generation bigint not null,
    process integer not null,
    lease_ms bigint not null,
    renewed_at timestamptz not null default now(),
    machine text not null,
    pid bigint not null,
    pid_started bigint not null,
    token bigint not null,
    notice text,
    primary key (listener_id, generation, process)
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
