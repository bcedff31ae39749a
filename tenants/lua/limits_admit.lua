-- Count a request against the limits of every scope it falls under; past any limit, against none.
--
-- KEYS  the ticket, then for each scope its `log`, `tokens` and `running`
-- ARGV  now in ms ("0": this server's clock), request, its tokens, then for each scope: requests a
--       minute, tokens a minute, requests at once (0: no limit); at last, after how many ms one
--       that runs is taken for lost
--
-- log      sorted set, request → ms of its admission, for the minute after it
-- tokens   hash, request → tokens; "total" is their sum
-- running  sorted set, request → ms when it is taken for lost
--
-- Replies {"ok", then for each scope: requests left, tokens left, requests that may still run beside
-- it, ms until the windows are empty again}; or {"limited", the scope's place (from 0), the limit's
-- name, ms until a retry can succeed (-1: never), what is left of that limit, then as with "ok"}.

local WINDOW, LOST = 60000, tonumber(ARGV[#ARGV])
local CHUNK, WALK = 500, 1000

local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call("TIME")
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local request, wanted = ARGV[2], tonumber(ARGV[3])

local scopes = {}
for place = 0, (#KEYS - 1) / 3 - 1 do
  local key, arg = 2 + 3 * place, 4 + 3 * place
  table.insert(scopes, {
    place = place,
    log = KEYS[key], tokens = KEYS[key + 1], running = KEYS[key + 2],
    requests_limit = tonumber(ARGV[arg]),
    tokens_limit = tonumber(ARGV[arg + 1]),
    running_limit = tonumber(ARGV[arg + 2]),
  })
end

local function sizes_of(scope, requests)
  local sum = 0
  for _, size in ipairs(redis.call("HMGET", scope.tokens, unpack(requests))) do
    sum = sum + (tonumber(size) or 0)
  end
  return sum
end

local function forget_old(scope)
  redis.call("ZREMRANGEBYSCORE", scope.running, "-inf", now)
  repeat
    local old = redis.call("ZRANGEBYSCORE", scope.log, "-inf", now - WINDOW, "LIMIT", 0, CHUNK)
    if #old > 0 then
      redis.call("HINCRBY", scope.tokens, "total", -sizes_of(scope, old))
      redis.call("HDEL", scope.tokens, unpack(old))
      redis.call("ZREM", scope.log, unpack(old))
    end
  until #old < CHUNK
end

local function leaves_in(scope, index)
  local entry = redis.call("ZRANGE", scope.log, index, index, "WITHSCORES")
  return tonumber(entry[2]) + WINDOW - now
end

-- Ms until enough of the oldest requests have left for the wanted tokens to fit. After WALK of them
-- it answers for the newest, which is late but true.
local function fits_in(scope)
  if wanted > scope.tokens_limit then return -1 end
  local excess = scope.total + wanted - scope.tokens_limit
  for from = 0, WALK - 1, 100 do
    local oldest = redis.call("ZRANGE", scope.log, from, from + 99)
    for offset, each in ipairs(oldest) do
      excess = excess - sizes_of(scope, { each })
      if excess <= 0 then return leaves_in(scope, from + offset - 1) end
    end
  end
  return leaves_in(scope, -1)
end

local function refusals_of(scope)
  local refusals = {}
  local function refuse(limit_name, limit, wait, used)
    local left = math.max(0, limit - used)
    table.insert(refusals, { "limited", scope.place, limit_name, wait, left })
  end
  if scope.requests_limit > 0 and scope.count >= scope.requests_limit then
    local wait = leaves_in(scope, scope.count - scope.requests_limit)
    refuse("requests_per_minute", scope.requests_limit, wait, scope.count)
  end
  if scope.tokens_limit > 0 and scope.total + wanted > scope.tokens_limit then
    refuse("tokens_per_minute", scope.tokens_limit, fits_in(scope), scope.total)
  end
  if scope.running_limit > 0 and scope.at_once >= scope.running_limit then
    refuse("concurrent_requests", scope.running_limit, 1000, scope.at_once)
  end
  return refusals
end

local function is_known(scope)
  return redis.call("ZSCORE", scope.log, request) or redis.call("ZSCORE", scope.running, request)
end

local function count_in(scope)
  if scope.requests_limit > 0 or scope.tokens_limit > 0 then
    redis.call("ZADD", scope.log, now, request)
    redis.call("HSET", scope.tokens, request, wanted)
    scope.count = scope.count + 1
    scope.total = redis.call("HINCRBY", scope.tokens, "total", wanted)
    redis.call("PEXPIRE", scope.log, WINDOW)
    redis.call("PEXPIRE", scope.tokens, WINDOW)
  end
  if scope.running_limit > 0 then
    redis.call("ZADD", scope.running, now + LOST, request)
    scope.at_once = scope.at_once + 1
    redis.call("PEXPIRE", scope.running, LOST)
  end
end

local function longest(refusals)
  local worst = nil
  for _, each in ipairs(refusals) do
    if each[4] == -1 then return each end
    if worst == nil or each[4] > worst[4] then worst = each end
  end
  return worst
end

local function with_standing(reply)
  for _, scope in ipairs(scopes) do
    table.insert(reply, math.max(0, scope.requests_limit - scope.count))
    table.insert(reply, math.max(0, scope.tokens_limit - scope.total))
    table.insert(reply, math.max(0, scope.running_limit - scope.at_once))
    table.insert(reply, scope.count > 0 and leaves_in(scope, -1) or 0)
  end
  return reply
end

local known, refusals = false, {}
for _, scope in ipairs(scopes) do
  forget_old(scope)
  scope.count = redis.call("ZCARD", scope.log)
  scope.total = tonumber(redis.call("HGET", scope.tokens, "total")) or 0
  scope.at_once = redis.call("ZCARD", scope.running)
  known = known or is_known(scope)
  for _, each in ipairs(refusals_of(scope)) do table.insert(refusals, each) end
end
if not known then
  local refusal = longest(refusals)
  if refusal then return with_standing(refusal) end
  for _, scope in ipairs(scopes) do count_in(scope) end
end

redis.call("SET", KEYS[1], "limits", "PX", 10000)
return with_standing({ "ok" })
