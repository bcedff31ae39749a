-- Stop a request of this organization: a waiting one is sealed at once, a running one's worker told.
-- KEYS job, sealed
-- ARGV rid, organization, reason, readers who leave, "always" | "unread" | "never"
-- -> "unknown" | "ended" | "read" | "kept" | "sealed" | "told"
local found = redis.call('HMGET', KEYS[1], 'state', 'org', 'model', 'priority', 'worker')
if not found[1] or found[2] ~= ARGV[2] then return 'unknown' end
local readers = redis.call('HINCRBY', KEYS[1], 'readers', -ARGV[4])
if ARGV[5] == 'never' then return 'kept' end
if ARGV[5] == 'unread' and readers > 0 then return 'read' end
if found[1] == 'waiting' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local queue = 'queue:' .. found[3]
  step_out(queue, ARGV[1], found[4], found[2], redis.call('HGET', KEYS[1], 'patient'))
  redis.call('HSET', KEYS[1], 'state', 'sealed', 'sealed', now, 'reason', ARGV[3], 'error', '')
  redis.call('HDEL', KEYS[1], 'sealed_prompt')
  redis.call('ZADD', KEYS[2], now, ARGV[1])
  redis.call('PUBLISH', 'workers', 'finish ' .. ARGV[1])
  return 'sealed'
elseif found[1] == 'running' then
  redis.call('HSET', KEYS[1], 'cancel', ARGV[3])
  redis.call('HSETNX', KEYS[1], 'told_at', redis.call('HGET', KEYS[1], 'position'))
  redis.call('PUBLISH', 'worker:' .. found[5], 'cancel ' .. ARGV[1] .. ' ' .. ARGV[3])
  return 'told'
end
return 'ended'
