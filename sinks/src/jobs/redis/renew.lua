-- Lets leases end later. ARGV: in how many milliseconds, then for each job its number and its fencing number. Answers for each: 1 done, 0 another's.
local ends = now + tonumber(ARGV[1])
local numbers, answers, leases = {}, {}, {}
for i = 2, #ARGV, 2 do
    numbers[#numbers + 1] = ARGV[i]
end
local fences = redis.call('HMGET', p .. 'fences', unpack(numbers))
for n, number in ipairs(numbers) do
    if fences[n] == ARGV[2 * n + 1] then
        leases[#leases + 1] = ends
        leases[#leases + 1] = number
        answers[n] = 1
    else
        answers[n] = 0
    end
end
if #leases > 0 then
    redis.call('ZADD', p .. 'leases', unpack(leases))
end
return answers
