-- Puts jobs in. ARGV: for each its id, its lane, its delay in milliseconds, and itself. Answers for each: 1 new, 0 known.
local number = tonumber(redis.call('HGET', p .. 'meta', 'number') or 0)
local answers, before = {}, number
for i = 1, #ARGV, 4 do
    local id, delay = ARGV[i], tonumber(ARGV[i + 2])
    if redis.call('SISMEMBER', p .. 'done', id) == 1
        or redis.call('SISMEMBER', p .. 'done_old', id) == 1
        or redis.call('SADD', p .. 'live', id) == 0 then
        answers[#answers + 1] = 0
    else
        number = number + 1
        local name = string.format('%.0f', number)
        redis.call('HSET', p .. 'jobs', name, ARGV[i + 3])
        line_up(name, ARGV[i + 1], delay > 0 and now + delay or 0)
        answers[#answers + 1] = 1
    end
end
if number > before then
    redis.call('HSET', p .. 'meta', 'number', number)
    wake()
end
return answers
