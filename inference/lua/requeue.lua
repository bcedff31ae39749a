-- Put running requests back at the head of their lines: leases that expired (a crash counts against
-- the request; after the last attempt it is sealed as failed), or ones a draining worker gives up.
-- KEYS leases, sealed
-- ARGV "expired", most at once, most crashes in a row without a token, most attempts, ms of a lease
--      that a worker without a listener does not get
--      | "given", rid, attempt, …
-- -> {the model of each, …}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local models = {}

-- How often workers stopped under the request, if that is too often. One that delivered tokens is
-- no reason to suspect it.
local function is_exhausted(job, position, from, attempt)
  if tonumber(position) > tonumber(from or 0) then redis.call('HSET', job, 'crashes', 0) end
  local crashes = redis.call('HINCRBY', job, 'crashes', 1)
  if crashes >= tonumber(ARGV[3]) then return crashes end
  return tonumber(attempt) >= tonumber(ARGV[4]) and attempt
end

local function back(rid, crashed)
  local job = 'job:' .. rid
  redis.call('ZREM', KEYS[1], rid)
  local found = redis.call('HMGET', job, 'state', 'org', 'model', 'priority', 'cost', 'cancel',
    'position', 'from', 'attempt')
  if found[1] ~= 'running' then return end
  local exhausted = crashed == 1 and is_exhausted(job, found[7], found[8], found[9])
  if found[6] or exhausted then
    redis.call('HSET', job, 'state', 'sealed', 'sealed', now, 'reason', found[6] or 'failed',
      'error', found[6] and '' or 'The workers that ran it stopped ' .. exhausted .. ' times.')
    if found[6] then redis.call('HDEL', job, 'sealed_prompt') else redis.call('HSET', job, 'dead', 1) end
    redis.call('ZADD', KEYS[2], now, rid)
    return
  end
  local queue = 'queue:' .. found[3]
  local orgs = queue .. ':' .. found[4]
  redis.call('HSET', job, 'state', 'waiting')
  redis.call('ZADD', queue, now, rid)
  redis.call('LPUSH', orgs .. ':' .. found[2], rid)
  local served = redis.call('HINCRBY', queue .. ':served', found[2], -found[5])
  redis.call('ZADD', orgs, served, found[2])
  table.insert(models, found[3])
end

-- A worker listens as long as it lives; the kernel closes a killed one's connections at once.
local listening = {}
local function listens(rid)
  local worker = redis.call('HGET', 'job:' .. rid, 'worker') or ''
  if listening[worker] == nil then
    listening[worker] = redis.call('PUBSUB', 'NUMSUB', 'worker:' .. worker)[2] > 0
  end
  return listening[worker]
end

if ARGV[1] == 'expired' then
  local soon = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now + ARGV[5], 'WITHSCORES', 'LIMIT', 0,
    ARGV[2])
  for at = 1, #soon, 2 do
    if tonumber(soon[at + 1]) <= now or not listens(soon[at]) then back(soon[at], 1) end
  end
else
  for at = 2, #ARGV, 2 do
    if redis.call('HGET', 'job:' .. ARGV[at], 'attempt') == ARGV[at + 1] then back(ARGV[at], 0) end
  end
end
return models
