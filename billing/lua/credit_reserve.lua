-- Hold the most a request can cost, if what is left of the credit pays for it.
--
-- KEYS  1 the ticket  2 credit:{org}  3 credit:{org}:held
-- ARGV  1 request id  2 amount in nanos
-- Reply {"skipped"}: refused before. {"missing"}: the counters are not here, or not yet confirmed.
--       {"insufficient", amount, spent, limit, currency}: what is left can't pay.
--       {"reserved", amount, spent, limit, currency}: it could, but others' holds stand in the way.
--       {"ok"}: held; so it is when it was held before. The ticket then says in which epoch.

local AGE = 6 * 3600 * 1000   -- no request lives so long: its hold was left by a crash
local SWEEP = 60 * 1000

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function made_at(id)
  return tonumber(string.sub(id, 1, 8) .. string.sub(id, 10, 13), 16) or 0
end

local function sweep(now)
  local held = redis.call('HGETALL', KEYS[3])
  for i = 1, #held, 2 do
    if now - made_at(held[i]) > AGE then
      redis.call('HDEL', KEYS[3], held[i])
      redis.call('HINCRBY', KEYS[2], 'reserved', string.format('%.0f', 0 - tonumber(held[i + 1])))
    end
  end
  redis.call('HSET', KEYS[2], 'swept', string.format('%.0f', now))
end

if redis.call('GET', KEYS[1]) ~= 'limits' then
  return {'skipped'}
end

if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then
  local credit = redis.call('HMGET', KEYS[2], 'limit', 'spent', 'pending', 'currency', 'swept')
  local limit, spent, amount = tonumber(credit[1]), tonumber(credit[2]), tonumber(ARGV[2])
  if not limit or credit[3] then
    return {'missing'}
  end
  if amount > 0 and spent + amount > limit then
    return {'insufficient', ARGV[2], credit[2], credit[1], credit[4]}
  end
  local function fits()
    local reserved = tonumber(redis.call('HGET', KEYS[2], 'reserved'))
    return amount == 0 or spent + reserved + amount <= limit
  end
  if not fits() then
    local now = clock()
    if now - (tonumber(credit[5]) or 0) > SWEEP then
      sweep(now)
    end
    if not fits() then
      return {'reserved', ARGV[2], credit[2], credit[1], credit[4]}
    end
  end
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
  redis.call('HINCRBY', KEYS[2], 'reserved', ARGV[2])
end

local epoch = redis.call('HGET', KEYS[2], 'epoch') or '0'
redis.call('SET', KEYS[1], 'credit:' .. epoch, 'PX', 10000)
return {'ok'}
