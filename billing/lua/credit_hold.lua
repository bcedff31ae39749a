-- At booking: make sure that a request whose reservation is of an older epoch still holds credit.
-- The caller has the account locked, so that no rebuild can come between this and its commit.
--
-- KEYS  1 credit:{org}  2 credit:{org}:held  3 credit:{org}:budgets
-- ARGV  1 request id  2 amount in nanos  3 the account's epoch  4 API key  5 project
-- Reply "held": the hold outlived the rebuild. "taken": it was lost, and there was room to hold
--       the amount again. "lost": there was none, or the counters are not here: it is free.

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  return 'held'
end
local credit = redis.call('HMGET', KEYS[1], 'limit', 'spent', 'reserved', 'epoch')
if credit[4] ~= ARGV[3] then
  return 'lost'
end
local limit, used = tonumber(credit[1]), tonumber(credit[2]) + tonumber(credit[3])
if used + tonumber(ARGV[2]) > limit then
  return 'lost'
end
local mine = {}
for _, subject in ipairs({'of:o:', 'of:k:' .. ARGV[4], 'of:p:' .. ARGV[5]}) do
  local id = redis.call('HGET', KEYS[3], subject)
  if id then
    mine[#mine + 1] = id
    local of = redis.call('HMGET', KEYS[3], id .. ':limit', id .. ':spent', id .. ':reserved',
      id .. ':hard')
    local total = tonumber(of[2]) + tonumber(of[3]) + tonumber(ARGV[2])
    if of[4] == '1' and total > tonumber(of[1]) then
      return 'lost'
    end
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[2], ARGV[1],
  table.concat({ARGV[2], ARGV[4], ARGV[5], string.format('%.0f', now)}, '|'))
redis.call('HINCRBY', KEYS[1], 'reserved', ARGV[2])
for _, id in ipairs(mine) do
  redis.call('HINCRBY', KEYS[3], id .. ':reserved', ARGV[2])
end
return 'taken'
