-- The line of a model, as all scripts that move requests in it know it; it stands before each.
--
-- queue                       zset rid -> class · 10^13 + ms since when it waits. A class is twice the
--                             priority, and one more for who is patient: nobody waited for it when it
--                             came (in background, in batches). So what waits at some urgency is
--                             counted, and the oldest found, in O(log n).
-- queue:<priority>            zset organization -> tokens served
-- queue:<priority>:<org>      list rid, in order; with :patient behind it, of the patient ones
-- queue:<priority>:lengths    zset organization -> how long its line is, patient ones apart, where it
--                             has two or more
-- queue:deadlines             zset rid -> ms after which it is of no use any more
-- queue:suspects              list rid, under which workers died; see requeue.lua
local CLASS = 1e13
local PRIORITIES = 3

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function class_of(priority, patient) return 2 * priority + (patient and 1 or 0) end

local function in_class(queue, class)
  return redis.call('ZCOUNT', queue, class * CLASS, string.format('(%.0f', (class + 1) * CLASS))
end

-- Those of a class that have waited since before a time, the oldest first.
local function waiting_since(queue, class, before, most)
  return redis.call('ZRANGEBYSCORE', queue, class * CLASS, string.format('(%.0f', class * CLASS + before),
    'LIMIT', 0, most)
end

local function lane(queue, priority, org, patient)
  return queue .. ':' .. priority .. ':' .. org .. (patient and ':patient' or '')
end

local function note_length(queue, priority, org, length)
  local lengths = queue .. ':' .. priority .. ':lengths'
  if length > 1 then redis.call('ZADD', lengths, length, org) else redis.call('ZREM', lengths, org) end
end

-- Whose line is the longest, of whoever is not patient, and how long; nobody's where each has but one.
local function longest(queue, priority)
  for _ = 1, 16 do
    local top = redis.call('ZRANGE', queue .. ':' .. priority .. ':lengths', 0, 0, 'REV', 'WITHSCORES')
    if not top[1] then return nil, 0 end
    local length = redis.call('LLEN', lane(queue, priority, top[1]))
    if length == tonumber(top[2]) then return top[1], length end
    note_length(queue, priority, top[1], length)
  end
  return nil, 0
end

-- Stand in line, behind the others of the organization or (`LPUSH`) before them; how long it is then.
local function stand(queue, rid, how, priority, org, patient, deadline, now)
  redis.call('ZADD', queue, class_of(priority, patient) * CLASS + now, rid)
  if deadline then redis.call('ZADD', queue .. ':deadlines', deadline, rid) end
  local length = redis.call(how, lane(queue, priority, org, patient), rid)
  if not patient and length > 1 then note_length(queue, priority, org, length) end
  return length
end

-- Leave the line from wherever one is in it.
local function step_out(queue, rid, priority, org, patient)
  redis.call('ZREM', queue, rid)
  redis.call('ZREM', queue .. ':deadlines', rid)
  redis.call('LREM', lane(queue, priority, org, patient), 1, rid)
  redis.call('LREM', queue .. ':suspects', 1, rid)
  if not patient then note_length(queue, priority, org, redis.call('LLEN', lane(queue, priority, org))) end
end

-- The end of one that no worker has: it leaves the line, and costs nothing more than it did. Its
-- books wait in `sealed`.
local function turn_away(queue, rid, sealed, reason, now)
  local job = 'job:' .. rid
  local found = redis.call('HMGET', job, 'priority', 'org', 'patient')
  if not found[1] then return redis.call('ZREM', queue, rid) end
  step_out(queue, rid, found[1], found[2], found[3])
  redis.call('HSET', job, 'state', 'sealed', 'sealed', now, 'reason', reason, 'error', '')
  redis.call('HDEL', job, 'sealed_prompt')
  redis.call('ZADD', sealed, now, rid)
  redis.call('PUBLISH', 'workers', 'finish ' .. rid)
end

