-- Parked jobs. ARGV: above which number, how many at most. Answers for each its number, itself, and why.
local numbers = redis.call('ZRANGEBYSCORE', p .. 'parked', '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])
local answer = {}
for _, number in ipairs(numbers) do
    answer[#answer + 1] = tonumber(number)
    answer[#answer + 1] = redis.call('HGET', p .. 'jobs', number) or ''
    answer[#answer + 1] = redis.call('HGET', p .. 'why', number) or ''
end
return answer
