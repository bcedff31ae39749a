-- Put running requests back at the head of their lines: leases that expired (a crash counts against
-- the request; after the last attempt it is sealed as failed), or ones a draining worker gives up.
-- KEYS leases, sealed
-- ARGV "expired", most at once, most attempts | "given", rid, attempt, …
-- -> {models with work again, …}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local models = {}

local function back(rid, crashed)
  local job = 'job:' .. rid
  redis.call('ZREM', KEYS[1], rid)
  local found = redis.call('HMGET', job, 'state', 'org', 'model', 'priority', 'cost', 'cancel')
  if found[1] ~= 'running' then return end
  local crashes = redis.call('HINCRBY', job, 'crashes', crashed)
  if found[6] or crashes >= tonumber(ARGV[3] or 0) and crashed == 1 then
    redis.call('HSET', job, 'state', 'sealed', 'sealed', now, 'reason', found[6] or 'failed',
      'error', found[6] and '' or 'The workers that ran it stopped ' .. crashes .. ' times.')
    redis.call('HDEL', job, 'sealed_prompt')
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
  models[found[3]] = true
end

if ARGV[1] == 'expired' then
  for _, rid in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])) do
    back(rid, 1)
  end
else
  for at = 2, #ARGV, 2 do
    if redis.call('HGET', 'job:' .. ARGV[at], 'attempt') == ARGV[at + 1] then back(ARGV[at], 0) end
  end
end
local names = {}
for model in pairs(models) do table.insert(names, model) end
return names
