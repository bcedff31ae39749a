-- The vectors of questions that may mean the same as one.
-- KEYS entries of their answers, by when their time ends
-- ARGV what the names of vectors begin with
-- -> entry, sealed vector, … ; of those that are gone the entry goes, too
local found = {}
for _, entry in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local vector = redis.call('GET', ARGV[1] .. entry)
  if vector then
    found[#found + 1] = entry
    found[#found + 1] = vector
  else
    redis.call('ZREM', KEYS[1], entry)
  end
end
return found
