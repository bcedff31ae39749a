-- At booking: make sure that a request whose reservation is of an older epoch still holds credit.
-- The caller has the account locked, so that no rebuild can come between this and its commit.
--
-- KEYS  1 credit:{org}  2 credit:{org}:held
-- ARGV  1 request id  2 amount in nanos  3 the account's epoch
-- Reply "held": the hold outlived the rebuild. "taken": it was lost, and there was room to hold
--       the amount again. "lost": there was none, or the counters are not here: it is free.

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  return 'held'
end
local credit = redis.call('HMGET', KEYS[1], 'limit', 'spent', 'reserved', 'epoch')
if credit[4] ~= ARGV[3] then
  return 'lost'
end
local limit, used = tonumber(credit[1]), tonumber(credit[2]) + tonumber(credit[3])
if used + tonumber(ARGV[2]) > limit then
  return 'lost'
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[1], 'reserved', ARGV[2])
return 'taken'
