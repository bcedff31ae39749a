-- A worker's sign that Redis answers it. One worker at a time reaps, and nobody does until Redis has
-- answered for a whole lease without a pause: after one (it hung, or another server took over) every
-- lease is old, though whoever holds it lives.
-- KEYS reaper, beats
-- ARGV worker, ms that the reaper may be silent, ms of a lease, ms between two signs that are a pause
-- -> 0 (another one reaps) | 1 (it reaps, but must not yet) | 2 (it may)
local now = now_ms()
local since, last = unpack(redis.call('HMGET', KEYS[2], 'since', 'last'))
if not last or now - last > tonumber(ARGV[4]) then
  since = now
  redis.call('HSET', KEYS[2], 'since', now)
end
redis.call('HSET', KEYS[2], 'last', now)
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return now - since >= tonumber(ARGV[3]) and 2 or 1
