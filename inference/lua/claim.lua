-- Lease the next waiting request: by priority, then of the organization least served, then oldest.
-- The organization is charged the most the request may take; sealing gives back what it did not.
-- KEYS queue, leases
-- ARGV worker, lease in ms, priorities, then organizations to pass over
-- -> {} | {rid, attempt, position, spec, what was asked, sealed}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local passed = {}
for at = 4, #ARGV do passed[ARGV[at]] = true end

local function least(orgs)
  local found = redis.call('ZRANGE', orgs, 0, #ARGV - 3, 'WITHSCORES')
  for at = 1, #found, 2 do
    if not passed[found[at]] then return {found[at], found[at + 1]} end
  end
  return {}
end

for priority = 0, ARGV[3] - 1 do
  local orgs = KEYS[1] .. ':' .. priority
  local first = least(orgs)
  while first[1] do
    local org, score = first[1], tonumber(first[2])
    local line = orgs .. ':' .. org
    local rid = redis.call('LPOP', line)
    if redis.call('LLEN', line) == 0 then redis.call('ZREM', orgs, org) end
    local job = rid and 'job:' .. rid
    if job and redis.call('HGET', job, 'state') == 'waiting' then
      local attempt = redis.call('HINCRBY', job, 'attempt', 1)
      local found = redis.call('HMGET', job, 'position', 'spec', 'cost', 'sealed_prompt')
      redis.call('HSET', job, 'state', 'running', 'worker', ARGV[1], 'from', found[1])
      redis.call('HSETNX', job, 'started', now)
      redis.call('ZREM', KEYS[1], rid)
      redis.call('ZADD', KEYS[2], now + ARGV[2], rid)
      if #ARGV == 3 then redis.call('SET', KEYS[1] .. ':floor', score) end
      redis.call('HSET', KEYS[1] .. ':served', org, score + found[3])
      if redis.call('ZSCORE', orgs, org) then redis.call('ZADD', orgs, score + found[3], org) end
      return {rid, attempt, tonumber(found[1]), found[2], found[4]}
    end
    first = least(orgs)
  end
end
return {}
