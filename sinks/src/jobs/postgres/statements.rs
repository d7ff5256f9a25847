//! What is asked of the table: one statement for a batch, each atomic by itself.
//!
//! Times are the server's. A job's `due` says from when on it may be taken, whether it waits for its time or for the end of a lease, so that
//! taking is one look at one index.

/// Puts jobs in. `$2` ids, `$3` actions, `$4` lanes, `$5` hold, `$6` delays in microseconds, `$7` jobs.
pub(super) const ENQUEUE: &str = "
    insert into highwater_jobs (queue, id, action, lane, hold, state, due, job)
    select $1, id, action, lane, hold, case when lane is null then 0 else 2 end, clock_timestamp() + delay * interval '1 us', job
    from unnest($2::text[], $3::text[], $4::text[], $5::bool[], $6::bigint[], $7::bytea[]) with ordinality
        as new(id, action, lane, hold, delay, job, n)
    order by n
    on conflict (queue, id) do nothing
    returning id";

/// Takes jobs: `$2` at most, for `$3` microseconds. Who is just being taken by somebody else is passed over.
pub(super) const TAKE: &str = "
    with due as materialized (
        select number, due, state from highwater_jobs
        where queue = $1 and state < 2 and due <= clock_timestamp()
        order by due, number limit $2 for update skip locked)
    update highwater_jobs as job
    set state = 1, due = clock_timestamp() + $3::bigint * interval '1 us', attempts = attempts + 1,
        fence = greatest(fence + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint)
    from due where job.number = due.number
    returning job.number, job.fence, job.attempts, due.state = 1, job.job, due.due";

/// In how many microseconds the next job may be taken.
pub(super) const NEXT: &str = "
    select (extract(epoch from due - clock_timestamp()) * 1000000)::bigint from highwater_jobs
    where queue = $1 and state < 2 order by due, number limit 1";

/// Lets leases end later: `$2` numbers, `$3` fences, `$4` microseconds.
pub(super) const RENEW: &str = "
    update highwater_jobs as job set due = clock_timestamp() + $4::bigint * interval '1 us'
    from (select job.number from unnest($2::bigint[], $3::bigint[]) as held(number, fence)
        join highwater_jobs as job on job.number = held.number and job.fence = held.fence and job.state = 1 and job.queue = $1
        order by job.number for update of job) as held
    where job.number = held.number
    returning job.number, job.fence";

/// Says what becomes of jobs: `$2` numbers, `$3` fences, `$4` fates (0 finished, 1 retry, 2 released, 3 parked), `$5` waits in microseconds, `$6`
/// causes, `$7` errors, `$8` responses.
pub(super) const SETTLE: &str = "
    update highwater_jobs as job
    set state = case fate when 0 then 4 when 3 then 3 else 0 end,
        due = case when fate = 2 and wait = 0 then enqueued_at else clock_timestamp() + wait * interval '1 us' end,
        attempts = attempts - (fate = 2)::int,
        job = case fate when 0 then '' else job.job end,
        cause = settled.cause, error = settled.error, response = settled.response,
        parked_at = case fate when 3 then clock_timestamp() end
    from (select job.number, settled.fate, settled.wait, settled.cause, settled.error, settled.response
        from unnest($2::bigint[], $3::bigint[], $4::smallint[], $5::bigint[], $6::text[], $7::text[], $8::text[])
            as settled(number, fence, fate, wait, cause, error, response)
        join highwater_jobs as job
            on job.number = settled.number and job.fence = settled.fence and job.state = 1 and job.queue = $1
        order by job.number for update of job) as settled
    where job.number = settled.number
    returning job.number, job.fence";

/// Lets the first of each of these lanes `$2` go that has nobody before it. Under the queue's lock.
pub(super) const ADVANCE: &str = "
    update highwater_jobs as job set state = 0
    from unnest($2::text[]) as of(lane)
    cross join lateral (
        select number from highwater_jobs as waiting
        where waiting.queue = $1 and waiting.lane = of.lane and waiting.state = 2
            and not exists (select from highwater_jobs as before
                where before.queue = $1 and before.lane = of.lane
                    and (before.state < 2 or (before.state = 3 and before.hold)))
        order by number limit 1) as first
    where job.number = first.number";

/// The queue's lock, under which lanes change: two that change one at once could each think that the other's job stands in the way. Who holds
/// it and goes silent is ended by the server.
pub(super) const LOCK: &str = "select pg_advisory_xact_lock(hashtextextended('highwater jobs ' || $1, 0))";

/// Before the lock is asked for.
pub(super) const BOUNDS: &str = "set local idle_in_transaction_session_timeout = '10s'";

/// Wakes who listens.
pub(super) const NOTIFY: &str = "select pg_notify('highwater_jobs', $1)";

/// How many jobs are in each state, those split that may be taken now, and since when the oldest of these waits.
pub(super) const COUNTS: &str = "
    select state, due <= clock_timestamp(), count(*), (extract(epoch from clock_timestamp() - min(enqueued_at)) * 1000000)::bigint
    from highwater_jobs where queue = $1 and state < 4 group by 1, 2";

/// Parked jobs above number `$2`, `$3` at most.
pub(super) const PARKED: &str = "
    select number, cause, error, response, attempts, (extract(epoch from parked_at) * 1000)::bigint, job
    from highwater_jobs where queue = $1 and state = 3 and number > $2 order by number limit $3";

/// Puts parked jobs `$2` back.
pub(super) const RETRY: &str = "
    update highwater_jobs
    set state = case when lane is null then 0 else 2 end,
        due = clock_timestamp(), attempts = 0, cause = null, error = null, response = null, parked_at = null
    where queue = $1 and state = 3 and number = any ($2)
    returning number, lane";

/// Gives parked jobs `$2` up.
pub(super) const DISCARD: &str = "
    update highwater_jobs set state = 4, due = clock_timestamp(), job = '', cause = null, error = null, response = null
    where queue = $1 and state = 3 and number = any ($2)
    returning number, lane";

/// One parked job.
pub(super) const ONE: &str = "select job from highwater_jobs where queue = $1 and state = 3 and number = $2";

/// Gives a parked job `$2` other bytes `$3`.
pub(super) const EDIT: &str = "update highwater_jobs set job = $3 where queue = $1 and state = 3 and number = $2";

/// Forgets ids of jobs that are no more: those older than `$2` seconds, or beyond the newest `$3`; `$4` at most.
pub(super) const FORGET: &str = "
    delete from highwater_jobs where number in (
        select number from highwater_jobs
        where queue = $1 and state = 4 and due <= greatest(clock_timestamp() - $2::float8 * interval '1 second',
            coalesce((select due from highwater_jobs where queue = $1 and state = 4 order by due desc offset $3 limit 1), '-infinity'))
        order by due limit $4)";
