-- Where a request is. The place in line is that of its turn if all requests cost alike: whoever is
-- more urgent goes before, then organizations take turns, each in the order it asked, its patient
-- ones behind its others.
-- KEYS job
-- ARGV rid, organization
-- -> {} | {state, model, priority, created, started, first, sealed, reason, position, attempt,
--          before it, ms from one's turn to the next or ""}
local found = redis.call('HMGET', KEYS[1], 'state', 'model', 'priority', 'created', 'started', 'first',
  'sealed', 'reason', 'position', 'attempt', 'org', 'patient')
if not found[1] or found[11] ~= ARGV[2] then return {} end
local before, pace = 0, ''
if found[1] == 'waiting' then
  local queue = 'queue:' .. found[2]
  local function length(priority, org)
    return redis.call('LLEN', lane(queue, priority, org)) + redis.call('LLEN', lane(queue, priority, org, true))
  end
  for class = 0, 2 * found[3] - 1 do before = before + in_class(queue, class) end
  local orgs = queue .. ':' .. found[3]
  local own = redis.call('LPOS', lane(queue, found[3], ARGV[2], found[12]), ARGV[1]) or 0
  if found[12] then own = own + redis.call('LLEN', lane(queue, found[3], ARGV[2])) end
  local rank = redis.call('ZRANK', orgs, ARGV[2]) or 0
  for at, org in ipairs(redis.call('ZRANGE', orgs, 0, -1)) do
    if org ~= ARGV[2] then
      local turns = at - 1 < rank and own + 1 or own
      before = before + math.min(turns, length(found[3], org))
    end
  end
  before = before + own
  pace = redis.call('HGET', queue .. ':pace', 'ms') or ''
end
for at = 1, 10 do found[at] = found[at] or '' end
found[11], found[12] = before, pace
return found
