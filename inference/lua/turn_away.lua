-- Seal requests that wait for a model which nobody serves: they cost nothing. Patient ones have more
-- time.
-- KEYS queue, sealed
-- ARGV ms that a request waits at most, the same of a patient one, most at once
-- -> how many
local now, count = now_ms(), 0
for priority = 0, PRIORITIES - 1 do
  for at, patient in ipairs({false, true}) do
    local class = class_of(priority, patient)
    for _, rid in ipairs(waiting_since(KEYS[1], class, now - ARGV[at], ARGV[3] - count)) do
      turn_away(KEYS[1], rid, KEYS[2], 'unserved', now)
      count = count + 1
    end
  end
end
return count
