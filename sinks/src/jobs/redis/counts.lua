-- How the queue stands: jobs that may be taken, whose time has not come, that are leased, parked, all of them; the one that waits longest; the time.
local due = redis.call('ZCOUNT', p .. 'later', '-inf', now)
local first = redis.call('LINDEX', p .. 'ready', 0)
return {
    redis.call('LLEN', p .. 'ready') + due,
    redis.call('ZCARD', p .. 'later') - due,
    redis.call('ZCARD', p .. 'leases'),
    redis.call('ZCARD', p .. 'parked'),
    redis.call('HLEN', p .. 'jobs'),
    first and redis.call('HGET', p .. 'jobs', first) or '',
    now,
}
