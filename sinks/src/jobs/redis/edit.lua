-- Gives a parked job other bytes. ARGV: its number, and those. Answers 1, or 0 if it is not parked.
if not redis.call('ZSCORE', p .. 'parked', ARGV[1]) then
    return 0
end
redis.call('HSET', p .. 'jobs', ARGV[1], ARGV[2])
return 1
