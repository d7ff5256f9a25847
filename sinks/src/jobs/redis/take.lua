-- Takes jobs. ARGV: how many at most, for how many milliseconds. Answers in how many milliseconds there may be more (-1: nobody knows), then for
-- each its number, its fencing number, which attempt it is, whether its lease had ended (1), and itself.
local most, lease = tonumber(ARGV[1]), tonumber(ARGV[2])
local due = redis.call('ZRANGEBYSCORE', p .. 'later', '-inf', now, 'LIMIT', 0, most)
if #due > 0 then
    redis.call('ZREM', p .. 'later', unpack(due))
    redis.call('RPUSH', p .. 'ready', unpack(due))
end
-- First those whose worker is gone: they have waited longest.
local taken = redis.call('ZRANGEBYSCORE', p .. 'leases', '-inf', now, 'LIMIT', 0, most)
local returned = #taken
for _, number in ipairs(taken) do
    redis.call('HINCRBY', p .. 'tries', number, 1)
end
if most > returned then
    for _, number in ipairs(redis.call('LPOP', p .. 'ready', most - returned) or {}) do
        taken[#taken + 1] = number
    end
end
local answer = {-1}
if #taken > 0 then
    local jobs = redis.call('HMGET', p .. 'jobs', unpack(taken))
    local tries = redis.call('HMGET', p .. 'tries', unpack(taken))
    -- By the clock, so that numbers grow even where the server has lost the last ones it gave out.
    local fence = math.max(tonumber(redis.call('HGET', p .. 'meta', 'fence') or 0), us)
    local leases, fences = {}, {}
    for i, number in ipairs(taken) do
        fence = fence + 1
        leases[#leases + 1] = now + lease
        leases[#leases + 1] = number
        fences[#fences + 1] = number
        fences[#fences + 1] = string.format('%.0f', fence)
        answer[#answer + 1] = tonumber(number)
        answer[#answer + 1] = fence
        answer[#answer + 1] = tonumber(tries[i] or 0) + 1
        answer[#answer + 1] = i <= returned and 1 or 0
        answer[#answer + 1] = jobs[i] or ''
    end
    redis.call('ZADD', p .. 'leases', unpack(leases))
    redis.call('HSET', p .. 'fences', unpack(fences))
    redis.call('HSET', p .. 'meta', 'fence', string.format('%.0f', fence))
end
if #taken < most then
    for _, key in ipairs({'later', 'leases'}) do
        local first = redis.call('ZRANGE', p .. key, 0, 0, 'WITHSCORES')
        if first[2] then
            local wait = math.max(tonumber(first[2]) - now, 0)
            answer[1] = answer[1] < 0 and wait or math.min(answer[1], wait)
        end
    end
end
return answer
