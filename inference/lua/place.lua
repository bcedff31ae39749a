-- Where a request is. The place in line is that of its turn if all requests cost alike: whoever is
-- more urgent goes before, then organizations take turns, each in the order it asked.
-- KEYS job
-- ARGV rid, organization
-- -> {} | {state, model, priority, created, started, first, sealed, reason, position, attempt,
--          before it, ms from one's turn to the next or ""}
local found = redis.call('HMGET', KEYS[1], 'state', 'model', 'priority', 'created', 'started', 'first',
  'sealed', 'reason', 'position', 'attempt', 'org')
if not found[1] or found[11] ~= ARGV[2] then return {} end
local before, pace = 0, ''
if found[1] == 'waiting' then
  local queue = 'queue:' .. found[2]
  for priority = 0, found[3] - 1 do
    for _, org in ipairs(redis.call('ZRANGE', queue .. ':' .. priority, 0, -1)) do
      before = before + redis.call('LLEN', queue .. ':' .. priority .. ':' .. org)
    end
  end
  local orgs = queue .. ':' .. found[3]
  local own = redis.call('LPOS', orgs .. ':' .. ARGV[2], ARGV[1]) or 0
  local rank = redis.call('ZRANK', orgs, ARGV[2]) or 0
  for at, org in ipairs(redis.call('ZRANGE', orgs, 0, -1)) do
    if org ~= ARGV[2] then
      local turns = at - 1 < rank and own + 1 or own
      before = before + math.min(turns, redis.call('LLEN', orgs .. ':' .. org))
    end
  end
  before = before + own
  pace = redis.call('HGET', queue .. ':pace', 'ms') or ''
end
for at = 1, 10 do found[at] = found[at] or '' end
found[11], found[12] = before, pace
return found
