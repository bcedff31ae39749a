-- Seal requests that wait for a model which nobody serves: they cost nothing. Patient
-- ones (see submit.lua) have more time.
-- KEYS queue, sealed
-- ARGV ms that a request waits at most, the same of a patient one, most at once
-- -> how many
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count = 0
for _, rid in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[3])) do
  local job = 'job:' .. rid
  local found = redis.call('HMGET', job, 'priority', 'org', 'patient', 'created')
  if not found[1] then
    redis.call('ZREM', KEYS[1], rid)
  elseif not found[3] or now - found[4] > tonumber(ARGV[2]) then
    redis.call('ZREM', KEYS[1], rid)
    redis.call('LREM', KEYS[1] .. ':' .. found[1] .. ':' .. found[2], 1, rid)
    redis.call('HSET', job, 'state', 'sealed', 'sealed', now, 'reason', 'unserved', 'error', '')
    redis.call('HDEL', job, 'sealed_prompt')
    redis.call('ZADD', KEYS[2], now, rid)
    redis.call('PUBLISH', 'workers', 'finish ' .. rid)
    count = count + 1
  end
end
return count
