-- What the scripts of a queue share. KEYS[1] is where its keys begin: highwater:{NAME}:
--
--   jobs     number -> job             live       ids of jobs that are there
--   ready    numbers that may be taken done       ids of jobs that are no more, in two generations: done, done_old
--   later    numbers by when they may be           (done_since: when the newer one began)
--   leases   numbers by when their lease ends      parked   numbers that are parked
--   fences   number -> fencing number of its lease why      number -> why it is parked
--   tries    number -> attempts made, if any       meta     form, state, number and fence given out last
--   lanes    key -> the number that stands in the way of the rest of its lane
--   lane:KEY numbers behind it         after      number -> not before then, of one that waits in a lane
local p = KEYS[1]
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)

-- Lets a job wait for its time, or for being taken.
local function put(number, at)
    if at > now then
        redis.call('ZADD', p .. 'later', at, number)
    else
        redis.call('RPUSH', p .. 'ready', number)
    end
end

-- Lets a job into its lane ('=KEY', or '-' if it has none): it is the first there, or waits behind that.
local function line_up(number, lane, at)
    if lane == '-' then
        return put(number, at)
    end
    local key = string.sub(lane, 2)
    local first = redis.call('HGET', p .. 'lanes', key)
    if first and first ~= number then
        redis.call('ZADD', p .. 'lane:' .. key, number, number)
        if at > now then
            redis.call('HSET', p .. 'after', number, at)
        end
    else
        redis.call('HSET', p .. 'lanes', key, number)
        put(number, at)
    end
end

-- A job leaves its lane: the next one there may be taken.
local function leave(number, lane)
    if lane == '-' then
        return
    end
    local key = string.sub(lane, 2)
    if redis.call('HGET', p .. 'lanes', key) ~= number then
        return
    end
    local next = redis.call('ZPOPMIN', p .. 'lane:' .. key)[1]
    if not next then
        redis.call('HDEL', p .. 'lanes', key)
        return
    end
    redis.call('HSET', p .. 'lanes', key, next)
    local at = tonumber(redis.call('HGET', p .. 'after', next) or 0)
    if at > 0 then
        redis.call('HDEL', p .. 'after', next)
    end
    put(next, at)
end

-- Remembers ids of jobs that are no more: for so many milliseconds, or until there are so many more.
local function remember(ids, ms, most)
    local since = tonumber(redis.call('GET', p .. 'done_since') or 0)
    if now - since >= ms or redis.call('SCARD', p .. 'done') >= most then
        redis.call('UNLINK', p .. 'done_old')
        if redis.call('EXISTS', p .. 'done') == 1 then
            redis.call('RENAME', p .. 'done', p .. 'done_old')
        end
        redis.call('SET', p .. 'done_since', now)
    end
    redis.call('SREM', p .. 'live', unpack(ids))
    redis.call('SADD', p .. 'done', unpack(ids))
end

-- Tells whoever waits that there may be something to take.
local function wake()
    redis.call('XADD', p .. 'wake', 'MAXLEN', 1, '*', 'w', 1)
end
