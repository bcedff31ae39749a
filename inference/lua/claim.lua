-- Lease the next waiting request: by priority, then of the organization least served, then oldest; its
-- patient ones after its others, but for every fourth time. The organization is charged the most the
-- request may take; sealing gives back what it did not.
-- Before them all goes one under which workers died (see requeue.lua): it is the only such one that a
-- worker has before its next token, so that whom the next death is to be blamed on is known.
-- KEYS queue, leases
-- ARGV worker, lease in ms, priorities, then organizations to pass over
-- -> {} | {rid, attempt, position, spec, what was asked, sealed, 1 if it is suspect, ms that are left of
--    its time or nil}
local now = now_ms()
local queue = KEYS[1]
local passed = {}
for at = 4, #ARGV do passed[ARGV[at]] = true end

local function least(orgs)
  local found = redis.call('ZRANGE', orgs, 0, #ARGV - 3, 'WITHSCORES')
  for at = 1, #found, 2 do
    if not passed[found[at]] then return {found[at], found[at + 1]} end
  end
  return {}
end

local function lease(rid, suspect)
  local job = 'job:' .. rid
  if redis.call('HGET', job, 'state') ~= 'waiting' then return end
  local attempt = redis.call('HINCRBY', job, 'attempt', 1)
  local found = redis.call('HMGET', job, 'position', 'spec', 'cost', 'sealed_prompt', 'deadline', 'org')
  redis.call('HSET', job, 'state', 'running', 'worker', ARGV[1], 'from', found[1])
  redis.call('HSETNX', job, 'started', now)
  redis.call('ZREM', queue, rid)
  if found[5] then redis.call('ZREM', queue .. ':deadlines', rid) end
  redis.call('ZADD', KEYS[2], now + ARGV[2], rid)
  local left = found[5] and found[5] - now
  return {rid, attempt, tonumber(found[1]), found[2], found[4], suspect, left}, found[3], found[6]
end

-- The first of an organization's line, or of its patient one; whether none is left in either.
local function pop(orgs, priority, org)
  local line = orgs .. ':' .. org
  local patients = line .. ':patient'
  local length, others = redis.call('LLEN', line), redis.call('LLEN', patients)
  local theirs = length == 0 or others > 0 and redis.call('HINCRBY', queue .. ':turns', org, 1) % 4 == 0
  local rid = redis.call('LPOP', theirs and patients or line)
  if not theirs and length > 1 then note_length(queue, priority, org, length - 1) end
  return rid, length + others < 2
end

local function has_suspect()
  local aboard = redis.call('GET', 'suspect:' .. ARGV[1])
  if not aboard then return false end
  local found = redis.call('HMGET', 'job:' .. aboard, 'state', 'worker', 'position', 'from')
  return found[1] == 'running' and found[2] == ARGV[1] and found[3] == found[4]
end

if #ARGV == 3 and redis.call('EXISTS', queue .. ':suspects') == 1 and not has_suspect() then
  while true do
    local rid = redis.call('LPOP', queue .. ':suspects')
    if not rid then break end
    local leased, cost, org = lease(rid, 1)
    if leased then
      redis.call('SET', 'suspect:' .. ARGV[1], rid, 'EX', 3600)
      redis.call('HINCRBY', queue .. ':served', org, cost)
      return leased
    end
  end
end

for priority = 0, ARGV[3] - 1 do
  local orgs = queue .. ':' .. priority
  local first = least(orgs)
  while first[1] do
    local org, score = first[1], tonumber(first[2])
    local rid, last = pop(orgs, priority, org)
    if last then redis.call('ZREM', orgs, org) end
    local leased, cost
    if rid then leased, cost = lease(rid, 0) end
    if leased then
      if #ARGV == 3 then redis.call('SET', queue .. ':floor', score) end
      redis.call('HSET', queue .. ':served', org, score + cost)
      if not last then redis.call('ZADD', orgs, score + cost, org) end
      return leased
    end
    first = least(orgs)
  end
end
return {}
