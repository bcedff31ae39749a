-- Prolong a worker's leases, and note of which requests its engine has begun nothing: should it die,
-- they are not to blame.
-- KEYS leases
-- ARGV lease in ms, then rid, attempt and 1 or 0 (begun or not) of each request
-- -> for each request: "ok" | "lost" | the reason for which it is to be cancelled
local now = now_ms()
local replies = {}
for at = 2, #ARGV, 3 do
  local job = 'job:' .. ARGV[at]
  local found = redis.call('HMGET', job, 'state', 'attempt', 'cancel', 'idle')
  if found[2] ~= ARGV[at + 1] or not found[1] then
    table.insert(replies, 'lost')
  else
    if found[1] == 'running' then
      redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[at])
      if ARGV[at + 2] == '0' then
        if found[4] ~= found[2] then redis.call('HSET', job, 'idle', found[2]) end
      elseif found[4] then
        redis.call('HDEL', job, 'idle')
      end
    end
    table.insert(replies, found[3] or 'ok')
  end
end
return replies
