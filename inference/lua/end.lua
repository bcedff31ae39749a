-- The terminal event of a sealed request, once: after it the stream only ages.
-- KEYS job, stream, sealed
-- ARGV rid, payload, the reason as booked
-- -> "ok" | "ended" before | "lost": there is no such request any more
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'sealed' then return state and 'ended' or 'lost' end
redis.call('HSET', KEYS[1], 'state', 'done', 'reason', ARGV[3])
redis.call('HDEL', KEYS[1], 'spec', 'asked', 'sealed_prompt')
redis.call('ZREM', KEYS[3], ARGV[1])
-- The largest id there can be: nothing is ever appended after it.
local entry = '9007199254740991-0'
redis.call('XADD', KEYS[2], entry, 'd', ARGV[2])
local found = redis.call('HMGET', KEYS[1], 'web', 'keep', 'keep_stream')
redis.call('EXPIRE', KEYS[2], found[3] or found[2])
redis.call('EXPIRE', KEYS[1], found[2])
for web in string.gmatch(found[1], '[^,]+') do
  redis.call('PUBLISH', 'web:' .. web, ARGV[1] .. ' ' .. entry .. ' ' .. ARGV[2])
end
return 'ok'
