-- PostgreSQL has committed the epoch of these counters: they may be reserved against.
--
-- KEYS  1 credit:{org}
-- ARGV  1 epoch

if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'pending')
end
return {'ok'}
