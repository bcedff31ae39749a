-- One more reader of a request of this organization, in the web process `web`.
-- KEYS job
-- ARGV organization, web
-- -> {} where there is no such request | {state, model, model version, API key}
local found = redis.call('HMGET', KEYS[1], 'state', 'org', 'model', 'version', 'web', 'key')
if not found[1] or found[2] ~= ARGV[1] then return {} end
redis.call('HINCRBY', KEYS[1], 'readers', 1)
if not string.find(',' .. found[5] .. ',', ',' .. ARGV[2] .. ',', 1, true) then
  redis.call('HSET', KEYS[1], 'web', found[5] == '' and ARGV[2] or found[5] .. ',' .. ARGV[2])
end
return {found[1], found[3], found[4], found[6] or ''}
