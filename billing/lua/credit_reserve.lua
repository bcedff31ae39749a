-- Hold the most a request can cost, if what is left of the credit, and of each budget, pays for it.
--
-- KEYS  1 the ticket  2 credit:{org}  3 credit:{org}:held  4 credit:{org}:budgets
-- ARGV  1 request id  2 amount in nanos  3 its API key  4 its project, "" for none
--       5 the currency of the amount
-- Reply {"skipped"}: refused before. {"missing"}: the counters are not here, not yet confirmed, or
--       of a time that is over (a grant has expired, a budget's month has ended).
--       {"currency", amount, spent, limit, currency}: the account is in another.
--       {"insufficient", amount, spent, limit, currency}: what is left can't pay.
--       {"reserved", amount, spent, limit, currency}: it could, but others' holds stand in the way.
--       {"over", …, name} and {"crowded", …, name}: the same of a hard budget.
--       What is half spent and refuses is marked once, for alerts to tell of.
--       {"ok"}: held; so it is when it was held before. The ticket then says in which epoch.

local AGE = 6 * 3600 * 1000   -- no request lives so long: its hold was left by a crash
local SWEEP = 60 * 1000
-- Nanos, API key, project, and since when it is held, in ms; older ones are as old as their ids, which
-- may have been drawn long before: with an Idempotency-Key, or a batch.
local HOLD = '^(%d+)|?([^|]*)|?([^|]*)|?(%d*)$'

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function made_at(id)
  return tonumber(string.sub(id, 1, 8) .. string.sub(id, 10, 13), 16) or 0
end

local function minus(amount)
  return string.format('%.0f', 0 - tonumber(amount))
end

local function budgets(key, project)
  local found = {}
  for _, subject in ipairs({'of:o:', 'of:k:' .. key, 'of:p:' .. project}) do
    local id = redis.call('HGET', KEYS[4], subject)
    if id then
      found[#found + 1] = id
    end
  end
  return found
end

local function sweep(now)
  local held = redis.call('HGETALL', KEYS[3])
  for i = 1, #held, 2 do
    local amount, key, project, since = string.match(held[i + 1], HOLD)
    if now - (tonumber(since) or made_at(held[i])) > AGE then
      redis.call('HDEL', KEYS[3], held[i])
      redis.call('HINCRBY', KEYS[2], 'reserved', minus(amount))
      for _, id in ipairs(budgets(key, project)) do
        redis.call('HINCRBY', KEYS[4], id .. ':reserved', minus(amount))
      end
    end
  end
  redis.call('HSET', KEYS[2], 'swept', string.format('%.0f', now))
end

if redis.call('GET', KEYS[1]) ~= 'limits' then
  return {'skipped'}
end

local function hold(amount, key, project)
  redis.call('HSET', KEYS[3], ARGV[1],
    table.concat({amount, key, project, string.format('%.0f', clock())}, '|'))
end

local before = redis.call('HGET', KEYS[3], ARGV[1])
if before then
  -- Perhaps by an admission that died: it is as new as this one.
  hold(string.match(before, HOLD))
else
  local credit = redis.call('HMGET', KEYS[2], 'limit', 'spent', 'pending', 'currency', 'swept',
    'until')
  local limit, spent, amount = tonumber(credit[1]), tonumber(credit[2]), tonumber(ARGV[2])
  if not limit or credit[3] or (credit[6] and clock() >= tonumber(credit[6])) then
    return {'missing'}
  end
  if credit[4] ~= ARGV[5] then
    return {'currency', ARGV[2], credit[2], credit[1], credit[4]}
  end
  if amount > 0 and spent + amount > limit then
    if 2 * spent >= limit then
      redis.call('HSETNX', KEYS[2], 'refusing', '1')
    end
    return {'insufficient', ARGV[2], credit[2], credit[1], credit[4]}
  end
  local mine = budgets(ARGV[3], ARGV[4])
  local function refusal()
    if amount == 0 then
      return nil
    end
    for _, id in ipairs(mine) do
      local of = redis.call('HMGET', KEYS[4], id .. ':limit', id .. ':spent', id .. ':reserved',
        id .. ':hard', id .. ':name')
      if of[4] == '1' then
        local total = tonumber(of[2]) + amount
        if total > tonumber(of[1]) then
          if 2 * tonumber(of[2]) >= tonumber(of[1]) then
            redis.call('HSETNX', KEYS[4], id .. ':refusing', '1')
          end
          return {'over', ARGV[2], of[2], of[1], credit[4], of[5]}
        elseif total + tonumber(of[3]) > tonumber(of[1]) then
          return {'crowded', ARGV[2], of[2], of[1], credit[4], of[5]}
        end
      end
    end
    if spent + tonumber(redis.call('HGET', KEYS[2], 'reserved')) + amount > limit then
      return {'reserved', ARGV[2], credit[2], credit[1], credit[4]}
    end
  end
  local refused = refusal()
  if refused then
    local now = clock()
    if now - (tonumber(credit[5]) or 0) > SWEEP then
      sweep(now)
      refused = refusal()
    end
    if refused then
      return refused
    end
  end
  hold(ARGV[2], ARGV[3], ARGV[4])
  redis.call('HINCRBY', KEYS[2], 'reserved', ARGV[2])
  for _, id in ipairs(mine) do
    redis.call('HINCRBY', KEYS[4], id .. ':reserved', ARGV[2])
  end
end

local epoch = redis.call('HGET', KEYS[2], 'epoch') or '0'
redis.call('SET', KEYS[1], 'credit:' .. epoch, 'PX', 10000)
return {'ok'}
