-- Accept a request: its job stands, waiting, in its organization's line for the model. Nobody is let
-- in to wait for too long: what is as urgent, or more, is bounded by the line's pace, and patient
-- ones, which go when there is room, by a bound of their own and their organization's share of it. A
-- full line makes room where that is fair: whoever cannot be reached before its deadline goes; or the
-- oldest of the longest line, if it is less urgent, or longer than the newcomer's own; or else
-- whoever has waited for too long already. Patient ones never go for others.
-- KEYS ticket, job, queue (see lines.lua), sealed
-- ARGV rid, organization, model, priority, cost (tokens at most), web, spec, most waiting,
--      model version, seconds to keep it after its end, seconds to keep its stream,
--      what was asked, sealed; the same for the history, or ""; ms that the books may be behind, most
--      requests that they may be behind, ms after which a waiting request has waited too long,
--      ms that an announcement is taken to be under way, what a stored response was asked for,
--      sealed, or ""; ms from now to its deadline, or 0; most patient ones of an organization;
--      ms after which a bell that rings is heard by nobody; what becomes of it when its readers
--      leave; API key
-- -> {"ok", 1 if the workers are to be told} | {"full", waiting, ms until there is room}
--  | {"share", its own waiting, ms until there is room} | {"behind", ms} | {"memory"} | {"skipped"}
--  | {"twin", state}: it got in before
local twin = redis.call('HGET', KEYS[2], 'state')
if twin then return {'twin', twin} end
local epoch = string.match(redis.call('GET', KEYS[1]) or '', '^credit:(%d+)$')
if not epoch then return {'skipped'} end
local rid, org, model, priority = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local queue, patient = KEYS[3], ARGV[6] == ''
local now = now_ms()
if redis.call('EXISTS', 'memory:short') == 1 then return {'memory'} end
local unbooked = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
if unbooked[2] and (now - unbooked[2] > tonumber(ARGV[14])
    or redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[15])) then
  return {'behind', now - unbooked[2]}
end

local pace = redis.call('HMGET', queue .. ':pace', 'most', 'ms', 'run_ms')
local most = math.min(tonumber(ARGV[8]), tonumber(pace[1] or ARGV[8]))
local turn = tonumber(pace[2] or 1000)

local function refusal(why, count, bound)
  return {why, count, math.ceil((count - bound + 1) * turn)}
end

-- Of those whose time is over first: whoever would be reached too late at the line's pace. How many
-- go before it is the less of all that came earlier, and of all organizations' turns until its own.
local function hopeless()
  local soon = redis.call('ZRANGE', queue .. ':deadlines', 0, 15, 'WITHSCORES')
  for at = 1, #soon, 2 do
    local score = tonumber(redis.call('ZSCORE', queue, soon[at]) or -1)
    local class = math.floor(score / CLASS)
    if score < 0 then
      redis.call('ZREM', queue .. ':deadlines', soon[at])
    elseif class % 2 == 0 and class / 2 >= priority then
      local owner = redis.call('HGET', 'job:' .. soon[at], 'org')
      local own = owner and redis.call('LPOS', lane(queue, class / 2, owner), soon[at], 'MAXLEN', 1000) or 0
      local ahead = math.min(own * redis.call('ZCARD', queue .. ':' .. class / 2),
        redis.call('ZCOUNT', queue, class * CLASS, string.format('(%.0f', score)))
      for c = 0, class - 2, 2 do ahead = ahead + in_class(queue, c) end
      if now + (pace[2] and ahead * turn or 0) > tonumber(soon[at + 1]) then return soon[at] end
    end
  end
end

local function unfair()
  for p = PRIORITIES - 1, priority, -1 do
    local whose, length = longest(queue, p)
    if whose and (p > priority or length > redis.call('LLEN', lane(queue, p, org)) + 1) then
      return redis.call('LINDEX', lane(queue, p, whose), 0)
    end
    local oldest = p > priority and waiting_since(queue, class_of(p), now + 1, 1)[1]
    if oldest then return oldest end
  end
end

-- All slots may fall vacant together, an answer's time after they were taken together: nobody is late
-- who has not waited for most of that.
local function late()
  local before = now - math.max(tonumber(ARGV[16]), tonumber(pace[3] or 0) * 0.75)
  for p = PRIORITIES - 1, 0, -1 do
    local found = waiting_since(queue, class_of(p), before, 1)
    if found[1] then return found[1] end
  end
end

if patient then
  local own, all = 0, 0
  for p = 0, PRIORITIES - 1 do
    own = own + redis.call('LLEN', lane(queue, p, org, true))
    all = all + in_class(queue, class_of(p, true))
  end
  if own >= tonumber(ARGV[20]) then return refusal('share', own, tonumber(ARGV[20])) end
  if all >= tonumber(ARGV[8]) then return refusal('full', all, tonumber(ARGV[8])) end
elseif redis.call('ZCARD', queue) >= most then
  local before, all = 0, 0
  for p = 0, PRIORITIES - 1 do
    all = all + in_class(queue, class_of(p))
    if p == priority then before = all end
  end
  local victim = all >= most and (hopeless() or unfair() or late())
  if victim then
    turn_away(queue, victim, KEYS[4], 'shed', now)
  elseif before >= most then
    return refusal('full', before, most)
  end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'state', 'waiting', 'org', org, 'model', model, 'priority', priority,
  'cost', ARGV[5], 'web', ARGV[6], 'spec', ARGV[7], 'attempt', 0, 'position', 0, 'created', now,
  'credit_epoch', epoch, 'leaving', ARGV[22], 'key', ARGV[23],
  'version', ARGV[9], 'keep', ARGV[10], 'keep_stream', ARGV[11], 'sealed_prompt', ARGV[12],
  'readers', patient and 0 or 1)
if patient then redis.call('HSET', KEYS[2], 'patient', 1) end
if ARGV[13] ~= '' then redis.call('HSET', KEYS[2], 'asked', ARGV[13]) end
if ARGV[18] ~= '' then redis.call('HSET', KEYS[2], 'frame', ARGV[18]) end
local deadline = ARGV[19] ~= '0' and now + ARGV[19]
if deadline then redis.call('HSET', KEYS[2], 'deadline', deadline) end
local ahead = stand(queue, rid, 'RPUSH', priority, org, patient, deadline, now) - 1
local orgs = queue .. ':' .. priority
if not redis.call('ZSCORE', orgs, org) then
  -- Who comes back after a pause starts level with the least served, not with old credit.
  local served = tonumber(redis.call('HGET', queue .. ':served', org) or 0)
  local floor = tonumber(redis.call('GET', queue .. ':floor') or 0)
  redis.call('ZADD', orgs, math.max(served, floor), org)
end
-- Nobody is told while an announcement is under way; or while every worker is full, but for the
-- first of an organization, for which there may be room beyond the slots.
local told = redis.call('GET', queue .. ':told')
if told == 'called' or told and ahead > 0 then return {'ok', 0} end
-- A worker that waits at the model's bell needs no announcement, unless the bell stays unanswered.
local ears = redis.call('ZRANGE', queue .. ':ears', -1, -1, 'WITHSCORES')
if ears[2] and now < tonumber(ears[2]) then
  local rung = redis.call('LINDEX', queue .. ':bell', 0)
  if not rung then redis.call('LPUSH', queue .. ':bell', now) end
  if not rung or now - rung < tonumber(ARGV[21]) then return {'ok', 0} end
end
redis.call('SET', queue .. ':told', 'called', 'PX', ARGV[17])
return {'ok', 1}
