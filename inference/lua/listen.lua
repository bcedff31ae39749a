-- A worker waits at the bells of models.
-- KEYS ears (zset worker -> ms) of each model
-- ARGV worker, ms that it is taken to listen
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, ears in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', ears, '-inf', now)
  redis.call('ZADD', ears, now + ARGV[2], ARGV[1])
end
