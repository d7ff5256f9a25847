-- Gives parked jobs up. ARGV: how many milliseconds and how many ids are remembered, then for each job its number, its id and its lane. Answers how
-- many there were.
local discarded = 0
for i = 3, #ARGV, 3 do
    local number = ARGV[i]
    if redis.call('ZREM', p .. 'parked', number) == 1 then
        discarded = discarded + 1
        for _, key in ipairs({'why', 'tries', 'jobs'}) do
            redis.call('HDEL', p .. key, number)
        end
        remember({ARGV[i + 1]}, tonumber(ARGV[1]), tonumber(ARGV[2]))
        leave(number, ARGV[i + 2])
    end
end
if discarded > 0 then
    wake()
end
return discarded
