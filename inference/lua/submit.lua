-- Accept a request: its job stands, waiting, in its organization's line for the model. A full line
-- makes room where that is fair: the oldest of the longest line goes, if it is longer than the
-- newcomer's own or less urgent, or else whoever has waited for too long already. Requests that
-- nobody waited for when they came (in background, in batches) are patient, and never go.
-- KEYS ticket, job, queue (zset rid -> ms), sealed
-- ARGV rid, organization, model, priority, cost (tokens at most), web, spec, most waiting,
--      model version, seconds to keep it after its end, seconds to keep its stream,
--      what was asked, sealed; the same for the history, or ""; ms that the books may be behind, most
--      requests that they may be behind, ms after which a waiting request has waited too long,
--      ms that an announcement is taken to be under way, what a stored response was asked for,
--      sealed, or ""
-- -> {"ok", 1 if the workers are to be told} | {"full", waiting, ms until there is room}
--  | {"behind", ms} | {"skipped"}
if redis.call('EXISTS', KEYS[2]) == 1 then return {'ok', 1} end
local epoch = string.match(redis.call('GET', KEYS[1]) or '', '^credit:(%d+)$')
if not epoch then return {'skipped'} end
local rid, org, model, priority = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local waiting = redis.call('ZCARD', KEYS[3])
local unbooked = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
if unbooked[2] and (now - unbooked[2] > tonumber(ARGV[14])
    or redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[15])) then
  return {'behind', now - unbooked[2]}
end

local function line_of(p, o) return KEYS[3] .. ':' .. p .. ':' .. o end

local function shed(victim)
  local found = redis.call('HMGET', 'job:' .. victim, 'priority', 'org')
  redis.call('ZREM', KEYS[3], victim)
  redis.call('LREM', line_of(found[1], found[2]), 1, victim)
  redis.call('HSET', 'job:' .. victim, 'state', 'sealed', 'sealed', now, 'reason', 'shed', 'error', '')
  redis.call('HDEL', 'job:' .. victim, 'sealed_prompt')
  redis.call('ZADD', KEYS[4], now, victim)
  redis.call('PUBLISH', 'workers', 'finish ' .. victim)
end

local function longest(p)
  local found, most = nil, 0
  for _, each in ipairs(redis.call('ZRANGE', KEYS[3] .. ':' .. p, 0, -1)) do
    local length = redis.call('LLEN', line_of(p, each))
    if length > most then found, most = line_of(p, each), length end
  end
  return found, most
end

local function first_impatient(some)
  for _, rid in ipairs(some) do
    if not redis.call('HGET', 'job:' .. rid, 'patient') then return rid end
  end
end

local function unfair()
  for p = 2, priority, -1 do
    local line, length = longest(p)
    if line and (p > tonumber(priority) or length > redis.call('LLEN', line_of(priority, org)) + 1) then
      return first_impatient(redis.call('LRANGE', line, 0, 15))
    end
  end
end

local function late()
  return first_impatient(
    redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. now - ARGV[16], 'LIMIT', 0, 16))
end

local pace = redis.call('HMGET', KEYS[3] .. ':pace', 'most', 'ms')
local most = math.min(tonumber(ARGV[8]), tonumber(pace[1] or ARGV[8]))
if waiting >= most then
  local victim = unfair() or late()
  if not victim then
    return {'full', waiting, math.ceil((waiting - most + 1) * tonumber(pace[2] or 1000))}
  end
  shed(victim)
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'state', 'waiting', 'org', org, 'model', model, 'priority', priority,
  'cost', ARGV[5], 'web', ARGV[6], 'spec', ARGV[7], 'attempt', 0, 'position', 0, 'created', now,
  'credit_epoch', epoch,
  'version', ARGV[9], 'keep', ARGV[10], 'keep_stream', ARGV[11], 'sealed_prompt', ARGV[12],
  'readers', ARGV[6] == '' and 0 or 1)
if ARGV[6] == '' then redis.call('HSET', KEYS[2], 'patient', 1) end
if ARGV[13] ~= '' then redis.call('HSET', KEYS[2], 'asked', ARGV[13]) end
if ARGV[18] ~= '' then redis.call('HSET', KEYS[2], 'frame', ARGV[18]) end
redis.call('ZADD', KEYS[3], now, rid)
local ahead = redis.call('RPUSH', KEYS[3] .. ':' .. priority .. ':' .. org, rid) - 1
local orgs = KEYS[3] .. ':' .. priority
if not redis.call('ZSCORE', orgs, org) then
  -- Who comes back after a pause starts level with the least served, not with old credit.
  local served = tonumber(redis.call('HGET', KEYS[3] .. ':served', org) or 0)
  local floor = tonumber(redis.call('GET', KEYS[3] .. ':floor') or 0)
  redis.call('ZADD', orgs, math.max(served, floor), org)
end
-- Nobody is told while an announcement is under way; or while every worker is full, but for the
-- first of an organization, for which there may be room beyond the slots.
local told = redis.call('GET', KEYS[3] .. ':told')
if told == 'called' or told and ahead > 0 then return {'ok', 0} end
redis.call('SET', KEYS[3] .. ':told', 'called', 'PX', ARGV[17])
return {'ok', 1}
