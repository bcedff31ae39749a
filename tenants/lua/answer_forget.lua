-- Answers that are given no more.
-- KEYS index, sizes
-- ARGV what the names of answers begin with, what those of vectors begin with, entries …
-- -> how many were there
local gone = 0
for at = 3, #ARGV do
  local bytes = tonumber(redis.call('HGET', KEYS[2], ARGV[at]) or 0)
  gone = gone + redis.call('DEL', ARGV[1] .. ARGV[at])
  redis.call('DEL', ARGV[2] .. ARGV[at])
  redis.call('ZREM', KEYS[1], ARGV[at])
  redis.call('HDEL', KEYS[2], ARGV[at])
  if bytes > 0 then redis.call('HINCRBY', KEYS[2], 'total', -bytes) end
end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) end
return gone
