-- Whether the workers are to be told that requests wait for a model, by whoever could not take all
-- of them. One announcement is under way at a time: `told` says so, or for a while that every
-- worker was found full.
-- KEYS queue, workers
-- ARGV how many full workers have passed it on, the most who may, ms that it is taken to be under way
-- -> 1 | 0
if redis.call('ZCARD', KEYS[1]) == 0 then return 0 end
local told = KEYS[1] .. ':told'
if tonumber(ARGV[1]) >= math.min(ARGV[2], redis.call('SCARD', KEYS[2])) and ARGV[1] ~= '0' then
  redis.call('SET', told, 'full', 'PX', ARGV[3])
  return 0
end
return redis.call('SET', told, 'called', 'NX', 'PX', ARGV[3]) and 1 or 0
