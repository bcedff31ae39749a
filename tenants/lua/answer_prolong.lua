-- An answer that was given again is kept for longer.
-- KEYS answer, its question's vector, index, sizes, answers to questions that may mean the same or ""
-- ARGV entry, seconds
-- -> 1, or 0 where it is gone
local seconds = tonumber(ARGV[2])
if redis.call('TTL', KEYS[1]) < 0 then return 0 end
redis.call('EXPIRE', KEYS[1], seconds, 'GT')
redis.call('EXPIRE', KEYS[2], seconds, 'GT')
local ends = tonumber(redis.call('TIME')[1]) + seconds
redis.call('ZADD', KEYS[3], 'XX', 'GT', ends, ARGV[1])
if KEYS[5] ~= '' then redis.call('ZADD', KEYS[5], 'XX', 'GT', ends, ARGV[1]) end
for at = 3, 5 do
  if KEYS[at] ~= '' then redis.call('EXPIRE', KEYS[at], seconds, 'GT') end
end
return 1
