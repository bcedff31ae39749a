-- Prolong a worker's leases.
-- KEYS leases
-- ARGV lease in ms, then rid and attempt of each request
-- -> for each request: "ok" | "lost" | the reason for which it is to be cancelled
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local replies = {}
for at = 2, #ARGV, 2 do
  local found = redis.call('HMGET', 'job:' .. ARGV[at], 'state', 'attempt', 'cancel')
  if found[2] ~= ARGV[at + 1] or not found[1] then
    table.insert(replies, 'lost')
  else
    if found[1] == 'running' then redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[at]) end
    table.insert(replies, found[3] or 'ok')
  end
end
return replies
