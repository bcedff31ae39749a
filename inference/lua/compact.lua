-- Put one entry in the place of all the pieces of an answer, once no more can come. Whoever reads on
-- from any piece finds it behind that, since it has the last one's id.
-- KEYS job, stream
-- ARGV how many pieces, the last one's id, all of them sealed together
-- -> 1 | 0: the stream is another one by now
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'sealed' and state ~= 'done' then return 0 end
local terminal = state == 'done' and redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if redis.call('XLEN', KEYS[2]) ~= ARGV[1] + (terminal and 1 or 0) then return 0 end
local left = redis.call('PTTL', KEYS[2])
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[2], ARGV[2], 'all', ARGV[3])
if terminal then redis.call('XADD', KEYS[2], terminal[1], unpack(terminal[2])) end
if left > 0 then redis.call('PEXPIRE', KEYS[2], left) end
return 1
