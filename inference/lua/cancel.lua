-- A reader leaves a request of this organization, or it is to stop: a waiting one is sealed at once, a
-- running one's worker told.
-- KEYS job, sealed
-- ARGV rid, organization, reason, readers who leave, "always" | "unread" (unless others read it, its
--      readers may still come back, or it goes on without) | "linger" (not yet) | "continue" (never),
--      ms that readers have to come back
-- -> {"unknown"} | {"ended"} | {"read"} | {"kept"} | {"sealed"} | {"told"}
--  | {"later", ms until its readers have had their time}
local found = redis.call('HMGET', KEYS[1], 'state', 'org', 'model', 'worker', 'leaving', 'left_at')
if not found[1] or found[2] ~= ARGV[2] then return {'unknown'} end
local now = now_ms()
local readers = redis.call('HINCRBY', KEYS[1], 'readers', -ARGV[4])
local grace = tonumber(ARGV[6])
if ARGV[5] == 'linger' then
  redis.call('HSET', KEYS[1], 'left_at', now)
  return {'kept'}
elseif ARGV[5] == 'continue' then
  redis.call('HSET', KEYS[1], 'leaving', 'continue')
  return {'kept'}
elseif ARGV[5] == 'unread' then
  if found[5] == 'continue' then return {'kept'} end
  if readers > 0 then return {'read'} end
  local left = grace - (now - (found[6] or 0))
  -- Redis's clock may have gone back meanwhile: nobody waits longer than once more.
  if left > 0 then return {'later', math.min(left, grace)} end
end
if found[1] == 'waiting' then
  turn_away('queue:' .. found[3], ARGV[1], KEYS[2], ARGV[3], now)
  return {'sealed'}
elseif found[1] == 'running' then
  redis.call('HSET', KEYS[1], 'cancel', ARGV[3])
  redis.call('HSETNX', KEYS[1], 'told_at', redis.call('HGET', KEYS[1], 'position'))
  redis.call('PUBLISH', 'worker:' .. found[4], 'cancel ' .. ARGV[1] .. ' ' .. ARGV[3])
  return {'told'}
end
return {'ended'}
