-- Fill the counters from PostgreSQL; holds that are here stay. Nobody reserves until confirmed.
--
-- KEYS  1 credit:{org}  2 credit:{org}:held
-- ARGV  1 limit  2 spent  3 epoch  4 currency

local reserved = 0
for _, amount in ipairs(redis.call('HVALS', KEYS[2])) do
  reserved = reserved + tonumber(amount)
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'limit', ARGV[1], 'spent', ARGV[2], 'epoch', ARGV[3],
  'currency', ARGV[4], 'reserved', string.format('%.0f', reserved), 'pending', '1')
return {'ok'}
