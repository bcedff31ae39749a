-- An answer in the cache, and what must go for it: an organization's answers keep within its share,
-- those whose time ends first going first.
-- KEYS answer, index (entries by when their time ends), sizes (entry -> bytes, and all in "total"),
--      the epoch before which all were forgotten, the vector of what was asked, the answers to
--      questions that may mean the same (entries by when their time ends)
-- ARGV entry, sealed answer, seconds, the share in bytes, what the names of answers begin with, the
--      epoch in which it was asked for, what the names of vectors begin with, the sealed vector or
--      "", how many questions that may mean the same are known at most
-- -> 1, or 0 where it is larger than the share or of an epoch that is over
local entry, seconds, share, before = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local now = tonumber(redis.call('TIME')[1])
-- What Redis itself needs for three keys' entries counts too.
local size = #ARGV[2] + 256
if ARGV[8] ~= '' then size = size + #ARGV[8] + 256 end

local function forget(gone)
  local bytes = tonumber(redis.call('HGET', KEYS[3], gone) or 0)
  redis.call('ZREM', KEYS[2], gone)
  redis.call('HDEL', KEYS[3], gone)
  return redis.call('HINCRBY', KEYS[3], 'total', -bytes)
end

for _, over in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
  forget(over)
end
redis.call('DEL', KEYS[1], KEYS[5])
forget(entry)
if size > share or tonumber(ARGV[6]) < tonumber(redis.call('GET', KEYS[4]) or 0) then return 0 end
local total = redis.call('HINCRBY', KEYS[3], 'total', size)
while total > share do
  local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not first then
    -- Redis has evicted the index alone: what it had is not known any more.
    redis.call('DEL', KEYS[3])
    total = redis.call('HINCRBY', KEYS[3], 'total', size)
    break
  end
  redis.call('DEL', before .. first, ARGV[7] .. first)
  total = forget(first)
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', seconds)
redis.call('ZADD', KEYS[2], now + seconds, entry)
redis.call('HSET', KEYS[3], entry, size)
if ARGV[8] ~= '' then
  redis.call('SET', KEYS[5], ARGV[8], 'EX', seconds)
  redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now)
  redis.call('ZADD', KEYS[6], now + seconds, entry)
  local most = tonumber(ARGV[9])
  for _, gone in ipairs(redis.call('ZRANGE', KEYS[6], 0, -most - 1)) do
    redis.call('DEL', ARGV[7] .. gone)
    redis.call('ZREM', KEYS[6], gone)
  end
end
for _, at in ipairs({2, 3, 6}) do
  if redis.call('TTL', KEYS[at]) < seconds then redis.call('EXPIRE', KEYS[at], seconds) end
end
return 1
