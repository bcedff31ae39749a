-- A worker's sign that Redis answers it. One worker at a time reaps. After a pause without a sign of
-- anybody's, Redis may have hung: then every lease is old, though whoever holds it lives, and nobody's
-- runs out until it has answered for a whole lease. Who does not even listen is dead all the same: a
-- hang breaks no connection. A server that began anew, or took over, has nobody's: there they wait too.
-- KEYS reaper, beats
-- ARGV worker, ms that the reaper or another worker may be silent, ms of a lease, ms between two signs
--      that are a pause, the server's run
-- -> 0 (another one reaps) | 1 (it reaps, but must not yet) | 2 (of who does not listen) | 3 (it may)
local now = now_ms()
local since, last, run, began = unpack(redis.call('HMGET', KEYS[2], 'since', 'last', 'run', 'began'))
if run ~= ARGV[5] then
  since, began = now, now
elseif now - last > tonumber(ARGV[4]) then
  since = now
end
redis.call('HSET', KEYS[2], 'since', since, 'last', now, 'run', ARGV[5], 'began', began)
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if now - since >= tonumber(ARGV[3]) then return 3 end
return now - began >= tonumber(ARGV[3]) and now - since >= tonumber(ARGV[2]) and 2 or 1
