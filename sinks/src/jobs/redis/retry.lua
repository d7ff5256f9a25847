-- Puts parked jobs back. ARGV: for each its number and its lane. Answers how many there were.
local retried = 0
for i = 1, #ARGV, 2 do
    local number = ARGV[i]
    if redis.call('ZREM', p .. 'parked', number) == 1 then
        retried = retried + 1
        redis.call('HDEL', p .. 'why', number)
        redis.call('HDEL', p .. 'tries', number)
        line_up(number, ARGV[i + 1], 0)
    end
end
if retried > 0 then
    wake()
end
return retried
