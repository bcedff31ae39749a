-- Put running requests back at the head of their lines: leases that expired, or ones that a worker
-- gives up (which is no crash).
-- A crash is blamed on what the worker had begun and brought no token of since it claimed it. One more
-- blame, and the request would be sealed as failed: then it is suspect. A worker has one suspect at a
-- time before its next token, and should it die meanwhile that one alone is blamed; so whoever merely
-- stood beside is never set aside. Suspects go before all lines (claim.lua).
-- KEYS leases, sealed, beats (see reaper.lua)
-- ARGV "expired", most at once, most crashes in a row without a token, most attempts, ms of a lease
--      that a worker without a listener does not get, ms without a sign after which leases say nothing,
--      1 where only workers without a listener are dead
--      | "given", rid, attempt, …
-- -> {the model of each, …}
local now = now_ms()
local models = {}
local MOST_NEAR = 4  -- crashes beside which one stood without having begun: enough to look at it alone

-- The suspect that a worker had when it died, before its next token.
local found_alone = {}
local function alone_in(worker)
  if found_alone[worker] == nil then
    local key = 'suspect:' .. worker
    local rid = redis.call('GET', key)
    local known = rid and string.match(rid, '^!(.*)$')
    if rid and not known then
      local found = redis.call('HMGET', 'job:' .. rid, 'state', 'worker', 'position', 'from', 'idle', 'attempt')
      if found[1] == 'running' and found[2] == worker and found[3] == found[4] and found[5] ~= found[6] then
        known = rid
        redis.call('SET', key, '!' .. rid, 'EX', 10)  -- the next passes take up the rest
      end
    end
    found_alone[worker] = known or false
  end
  return found_alone[worker]
end

-- Whether workers died under it too often, and how often.
local function blame(rid, job, found)
  local alone = alone_in(found.worker)
  if alone and alone ~= rid then return false end
  if found.idle == found.attempt then
    found.suspect = found.suspect or redis.call('HINCRBY', job, 'near', 1) >= MOST_NEAR
    return false
  end
  local crashes, most = redis.call('HINCRBY', job, 'crashes', 1), tonumber(ARGV[3])
  found.suspect = found.suspect or crashes >= most - 1
  return crashes >= most and crashes
end

local FIELDS = {'state', 'org', 'model', 'priority', 'cost', 'cancel', 'position', 'from', 'attempt',
  'patient', 'deadline', 'worker', 'idle', 'suspect'}

local function back(rid, crashed)
  local job, found = 'job:' .. rid, {}
  redis.call('ZREM', KEYS[1], rid)
  for at, value in ipairs(redis.call('HMGET', job, unpack(FIELDS))) do found[FIELDS[at]] = value end
  if found.state ~= 'running' then return end
  local exhausted
  if tonumber(found.position) > tonumber(found.from or 0) then
    -- It delivered tokens, which is no reason to suspect it.
    redis.call('HDEL', job, 'crashes', 'near', 'suspect')
    found.suspect = false
  elseif crashed then
    exhausted = blame(rid, job, found)
  end
  exhausted = exhausted or crashed and tonumber(found.attempt) >= tonumber(ARGV[4]) and found.attempt
  if found.cancel or exhausted then
    redis.call('HSET', job, 'state', 'sealed', 'sealed', now, 'reason', found.cancel or 'failed',
      'error', found.cancel and '' or 'The workers that ran it stopped ' .. exhausted .. ' times.')
    if found.cancel then redis.call('HDEL', job, 'sealed_prompt') else redis.call('HSET', job, 'dead', 1) end
    redis.call('ZADD', KEYS[2], now, rid)
    return
  end
  local queue = 'queue:' .. found.model
  redis.call('HSET', job, 'state', 'waiting')
  local served = redis.call('HINCRBY', queue .. ':served', found.org, -found.cost)
  if found.suspect then
    redis.call('HSET', job, 'suspect', 1)
    redis.call('ZADD', queue, class_of(found.priority, found.patient) * CLASS + now, rid)
    redis.call('RPUSH', queue .. ':suspects', rid)
  else
    stand(queue, rid, 'LPUSH', found.priority, found.org, found.patient, found.deadline, now)
    redis.call('ZADD', queue .. ':' .. found.priority, served, found.org)
  end
  table.insert(models, found.model)
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

if ARGV[1] == 'given' then
  for at = 2, #ARGV, 2 do
    if redis.call('HGET', 'job:' .. ARGV[at], 'attempt') == ARGV[at + 1] then back(ARGV[at], false) end
  end
  return models
end
local last = redis.call('HGET', KEYS[3], 'last')
if last and now - last > tonumber(ARGV[6]) then return models end
local soon = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now + ARGV[5], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for at = 1, #soon, 2 do
  if ARGV[7] == '0' and tonumber(soon[at + 1]) <= now or not listens(soon[at]) then
    back(soon[at], true)
  end
end
return models
