-- Free a request's hold, and count what it came to as spent, of the credit and of its budgets.
--
-- KEYS  1 credit:{org}  2 credit:{org}:held  3 credit:{org}:budgets  4 perhaps one that must not exist,
--       or nothing is done
-- ARGV  1 request id  2 amount in nanos  3 the credit epoch it was booked in
-- Reply {"ok"}, {"missing"} (no counters: a rebuild reads the ledger, and so this amount),
--       {"unknown"} (see below).
--
-- An amount booked in an earlier epoch is in the rebuilt sums already. One of this epoch whose
-- request holds nothing was either counted before (a repeated settlement) or lost its hold with
-- Redis's data (then it was never counted): the ledger knows, so the counters are thrown away and
-- the next reservation has them rebuilt.

if KEYS[4] and redis.call('EXISTS', KEYS[4]) == 1 then
  return {'ok'}
end

local hold = redis.call('HGET', KEYS[2], ARGV[1])
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local held, key, project = string.match(hold or '0', '^(%d+)|?([^|]*)|?([^|]*)')

local function count(field, amount)
  for _, subject in ipairs({'of:o:', 'of:k:' .. key, 'of:p:' .. project}) do
    local id = redis.call('HGET', KEYS[3], subject)
    if id then
      redis.call('HINCRBY', KEYS[3], id .. ':' .. field, amount)
    end
  end
  redis.call('HINCRBY', KEYS[1], field, amount)
end

if hold then
  redis.call('HDEL', KEYS[2], ARGV[1])
  if epoch then
    count('reserved', string.format('%.0f', 0 - tonumber(held)))
  end
end
if not epoch then
  return {'missing'}
end
if tonumber(ARGV[2]) == 0 or tonumber(ARGV[3]) < tonumber(epoch) then
  return {'ok'}
end
if not hold then
  redis.call('DEL', KEYS[1])
  return {'unknown'}
end
count('spent', ARGV[2])
return {'ok'}
