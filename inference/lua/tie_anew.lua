-- Tie an Idempotency-Key to another request, unless somebody else was quicker.
-- KEYS the key's tie
-- ARGV what it must be, what it shall be, seconds to keep it
-- -> what it is
local now = redis.call('GET', KEYS[1])
if now and now ~= ARGV[1] then return now end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return ARGV[2]
