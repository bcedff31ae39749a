-- Count an attempt against several counters; past any limit, against none.
--
-- KEYS  the counters
-- ARGV  for each counter: how many attempts in a window, the window in ms
--
-- Replies 0, or the ms until the fullest counter takes another.

local wait = 0
for index, key in ipairs(KEYS) do
  if (tonumber(redis.call("GET", key)) or 0) >= tonumber(ARGV[2 * index - 1]) then
    wait = math.max(wait, redis.call("PTTL", key))
  end
end
if wait > 0 then return wait end
for index, key in ipairs(KEYS) do
  if redis.call("INCR", key) == 1 then redis.call("PEXPIRE", key, ARGV[2 * index]) end
end
return 0
