-- Accept a request: its job stands, waiting, in its organization's line for the model.
-- KEYS ticket, job, queue (zset rid -> ms)
-- ARGV rid, organization, model, priority, cost (tokens at most), web, spec, most waiting,
--      model version, seconds to keep it after its end, seconds to keep its stream,
--      what was asked, sealed; the same for the history, or ""
-- -> {"ok"} | {"full", waiting, age of the oldest in ms} | {"skipped"}
if redis.call('EXISTS', KEYS[2]) == 1 then return {'ok'} end
local epoch = string.match(redis.call('GET', KEYS[1]) or '', '^credit:(%d+)$')
if not epoch then return {'skipped'} end
local rid, org, model, priority = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local waiting = redis.call('ZCARD', KEYS[3])
if waiting >= tonumber(ARGV[8]) then
  local oldest = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  return {'full', waiting, now - (oldest[2] or now)}
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'state', 'waiting', 'org', org, 'model', model, 'priority', priority,
  'cost', ARGV[5], 'web', ARGV[6], 'spec', ARGV[7], 'attempt', 0, 'position', 0, 'created', now,
  'credit_epoch', epoch,
  'version', ARGV[9], 'keep', ARGV[10], 'keep_stream', ARGV[11], 'sealed_prompt', ARGV[12],
  'readers', ARGV[6] == '' and 0 or 1)
if ARGV[13] ~= '' then redis.call('HSET', KEYS[2], 'asked', ARGV[13]) end
redis.call('ZADD', KEYS[3], now, rid)
redis.call('RPUSH', KEYS[3] .. ':' .. priority .. ':' .. org, rid)
local orgs = KEYS[3] .. ':' .. priority
if not redis.call('ZSCORE', orgs, org) then
  -- Who comes back after a pause starts level with the least served, not with old credit.
  local served = tonumber(redis.call('HGET', KEYS[3] .. ':served', org) or 0)
  local floor = tonumber(redis.call('GET', KEYS[3] .. ':floor') or 0)
  redis.call('ZADD', orgs, math.max(served, floor), org)
end
return {'ok'}
