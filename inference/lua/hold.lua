-- Models that are dedicated to organizations are loaded in a worker: the time since it last said so
-- counts, in the hours it belongs to.
-- KEYS the hours (held:<hour> hash "worker organization model" -> ms), then the worker's last word
--   (ms) of each model
-- ARGV ms after which a word is too old to count from, seconds that an hour is kept, a field a model
local HOUR = 3600000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for index = 2, #KEYS do
  local field = ARGV[index + 1]
  local from = tonumber(redis.call('GET', KEYS[index]) or now)
  redis.call('SET', KEYS[index], now, 'PX', ARGV[1])
  while from < now do
    local hour = math.floor(from / HOUR)
    local till = math.min(now, (hour + 1) * HOUR)
    local key = KEYS[1] .. ':' .. hour
    -- A clock that was set back goes through an hour again; nobody held it for more than its length.
    local sum = tonumber(redis.call('HGET', key, field) or 0) + till - from
    redis.call('HSET', key, field, math.min(sum, HOUR))
    redis.call('EXPIRE', key, ARGV[2])
    from = till
  end
end
return now
