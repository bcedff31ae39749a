-- Fill the counters from PostgreSQL; holds that are here stay. Nobody reserves until confirmed.
--
-- KEYS  1 credit:{org}  2 credit:{org}:held  3 credit:{org}:budgets
-- ARGV  1 limit  2 spent  3 epoch  4 currency  5 until when all this holds, in ms, or ""
--       then of each budget: id, subject ("o:", "k:<key>", "p:<project>"), limit, spent, hard, name

redis.call('DEL', KEYS[1], KEYS[3])
for i = 6, #ARGV, 6 do
  local id = ARGV[i]
  redis.call('HSET', KEYS[3], 'of:' .. ARGV[i + 1], id, id .. ':limit', ARGV[i + 2],
    id .. ':spent', ARGV[i + 3], id .. ':reserved', '0', id .. ':hard', ARGV[i + 4],
    id .. ':name', ARGV[i + 5])
end

local reserved = 0
for _, hold in ipairs(redis.call('HVALS', KEYS[2])) do
  local amount, key, project = string.match(hold, '^(%d+)|?([^|]*)|?([^|]*)')
  reserved = reserved + tonumber(amount)
  for _, subject in ipairs({'of:o:', 'of:k:' .. key, 'of:p:' .. project}) do
    local id = redis.call('HGET', KEYS[3], subject)
    if id then
      redis.call('HINCRBY', KEYS[3], id .. ':reserved', amount)
    end
  end
end
redis.call('HSET', KEYS[1], 'limit', ARGV[1], 'spent', ARGV[2], 'epoch', ARGV[3],
  'currency', ARGV[4], 'reserved', string.format('%.0f', reserved), 'pending', '1')
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'until', ARGV[5])
end
return {'ok'}
