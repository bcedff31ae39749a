-- A request has ended: it runs no more, and counts with the tokens it took, or not at all.
--
-- KEYS  `log`, `tokens` and `running` of each scope it was counted in; then perhaps one that must not
--       exist, or nothing is done
-- ARGV  request, its tokens (-1: it was refused further on, so nothing counts)

local request, taken = ARGV[1], tonumber(ARGV[2])

if #KEYS % 3 == 1 and redis.call("EXISTS", KEYS[#KEYS]) == 1 then
  return { "ok" }
end

for first = 1, #KEYS - 2, 3 do
  local log, tokens, running = KEYS[first], KEYS[first + 1], KEYS[first + 2]
  redis.call("ZREM", running, request)
  local counted = tonumber(redis.call("HGET", tokens, request))
  if counted and taken >= 0 then
    redis.call("HSET", tokens, request, taken)
    redis.call("HINCRBY", tokens, "total", taken - counted)
  elseif counted then
    redis.call("ZREM", log, request)
    redis.call("HDEL", tokens, request)
    redis.call("HINCRBY", tokens, "total", -counted)
  end
end
return { "ok" }
