-- One engine step: each request's new tokens to its stream, and the seal of those that ended.
-- Fenced by attempt, placed by position: a worker that lost its lease, or repeats itself, adds
-- nothing. What was accepted is also told live to the web processes concerned, a message each.
-- KEYS leases, sealed
-- ARGV for each request: rid, attempt, position, tokens, payload to send, the same sealed to keep, and
--      "" where it goes on, or its end in JSON: [reason, error, prompt tokens, cached tokens, what had
--      the answer or "", reasoning tokens, what a cache finds it by or ""]
-- -> for each request: "ok" | "lost" | the reason for which it is to be cancelled
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local replies, live = {}, {}

local function append(rid, attempt, position, count, payload, kept, seal)
  local ending = seal ~= '' and cjson.decode(seal) or {''}
  local reason = ending[1]
  local job = 'job:' .. rid
  local found = redis.call('HMGET', job, 'state', 'attempt', 'position', 'cancel', 'web')
  if found[2] ~= attempt then return 'lost' end
  if found[1] ~= 'running' then
    return (found[1] == 'sealed' or found[1] == 'done') and reason ~= '' and 'ok' or 'lost'
  end
  if found[4] then
    -- Told to stop: what comes from now on is not delivered, and its end is here.
    if reason == '' then return found[4] end
    payload, position, reason = '', found[3], reason == 'failed' and reason or found[4]
  end
  if tonumber(found[3]) == tonumber(position) then
    if payload ~= '' then
      local ends = position + count
      local entry = string.format('%.0f-%.0f', ends, attempt * 2 + (count == '0' and 1 or 0))
      redis.call('XADD', 'stream:' .. rid, entry, 'd', kept)
      redis.call('HSET', job, 'position', string.format('%.0f', ends))
      if found[3] == '0' then redis.call('HSETNX', job, 'first', now) end
      for web in string.gmatch(found[5], '[^,]+') do
        live[web] = live[web] or {}
        live[web][#live[web] + 1] = rid .. ' ' .. entry .. ' ' .. payload
      end
    end
  elseif tonumber(found[3]) < tonumber(position) then
    return 'lost'
  end
  if reason ~= '' then
    redis.call('HSET', job, 'state', 'sealed', 'reason', reason, 'error', ending[2],
      'prompt_tokens', ending[3], 'cached_tokens', ending[4],
      'reasoning_tokens', ending[6], 'sealed', now)
    if ending[5] ~= '' and not found[4] then redis.call('HSET', job, 'cache', ending[5]) end
    if (ending[7] or '') ~= '' then redis.call('HSET', job, 'answer', ending[7]) end
    redis.call('HDEL', job, 'sealed_prompt')
    redis.call('ZREM', KEYS[1], rid)
    redis.call('ZADD', KEYS[2], now, rid)
    local org, model, cost, priority = unpack(redis.call('HMGET', job, 'org', 'model', 'cost', 'priority'))
    local over = ending[3] + redis.call('HGET', job, 'position') - cost
    local queue = 'queue:' .. model
    redis.call('HINCRBY', queue .. ':served', org, string.format('%d', over))
    local orgs = queue .. ':' .. priority
    if redis.call('ZSCORE', orgs, org) then redis.call('ZINCRBY', orgs, over, org) end
  end
  return found[4] or 'ok'
end

for at = 1, #ARGV, 7 do
  replies[#replies + 1] = append(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4],
    ARGV[at + 5], ARGV[at + 6])
end
for web, lines in pairs(live) do
  redis.call('PUBLISH', 'web:' .. web, table.concat(lines, '\n'))
end
return replies
