-- Requests may wait still: ring for whoever listens next.
-- KEYS queue, ears, bell
-- -> 1, if nothing waits or somebody listens | 0
if redis.call('ZCARD', KEYS[1]) == 0 then return 1 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ears = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
if not ears[2] or tonumber(ears[2]) <= now then return 0 end
if redis.call('LLEN', KEYS[3]) == 0 then redis.call('LPUSH', KEYS[3], now) end
return 1
