-- Says what becomes of jobs. ARGV: how many milliseconds and how many ids are remembered, then for each job its number, its fencing number, its fate
-- (0 finished, 1 retry, 2 released, 3 parked), its wait in milliseconds, its id, its lane, whether that holds (1), and why it is parked. Answers for
-- each: 1 done, 0 another's.
local numbers, answers = {}, {}
for i = 3, #ARGV, 8 do
    numbers[#numbers + 1] = ARGV[i]
end
local fences = redis.call('HMGET', p .. 'fences', unpack(numbers))
local ours, finished, ids, lanes, back = {}, {}, {}, {}, {}
for n, number in ipairs(numbers) do
    local i = 8 * n - 5
    answers[n] = 0
    if fences[n] == ARGV[i + 1] then
        answers[n] = 1
        ours[#ours + 1] = number
        local fate, wait, lane = ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 5]
        if fate == '0' then
            finished[#finished + 1] = number
            ids[#ids + 1] = ARGV[i + 4]
            lanes[#lanes + 1] = {number, lane}
        elseif fate == '3' then
            redis.call('ZADD', p .. 'parked', number, number)
            redis.call('HSET', p .. 'why', number, now .. ' ' .. ARGV[i + 7])
            if ARGV[i + 6] == '0' then
                lanes[#lanes + 1] = {number, lane}
            end
        else
            if fate == '1' then
                redis.call('HINCRBY', p .. 'tries', number, 1)
            end
            if fate == '2' and wait == 0 then
                back[#back + 1] = number
            else
                put(number, wait > 0 and now + wait or 0)
            end
        end
    end
end
if #ours > 0 then
    redis.call('ZREM', p .. 'leases', unpack(ours))
    redis.call('HDEL', p .. 'fences', unpack(ours))
end
if #finished > 0 then
    redis.call('HDEL', p .. 'jobs', unpack(finished))
    redis.call('HDEL', p .. 'tries', unpack(finished))
    remember(ids, tonumber(ARGV[1]), tonumber(ARGV[2]))
end
-- To the front, in the order they had there.
for i = #back, 1, -1 do
    redis.call('LPUSH', p .. 'ready', back[i])
end
for _, job in ipairs(lanes) do
    leave(job[1], job[2])
end
return answers
