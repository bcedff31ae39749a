-- Seal requests whose time is over while they wait: nobody is to run them.
-- KEYS queue, sealed
-- ARGV most at once
-- -> how many
local now, count = now_ms(), 0
local deadlines = KEYS[1] .. ':deadlines'
for _, rid in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, ARGV[1])) do
  redis.call('ZREM', deadlines, rid)
  if redis.call('HGET', 'job:' .. rid, 'state') == 'waiting' then
    turn_away(KEYS[1], rid, KEYS[2], 'timeout', now)
    count = count + 1
  end
end
return count
