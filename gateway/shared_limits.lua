-- The limits of keys as all gateways count them. Of each key there are a hash and, where it has a budget, a hash of
-- the requests that were recorded and are not in the sums of the store yet.
--   ru, ra, tu, ta    requests and tokens used, in units of 1/60e6, and when (us): gateway/limits.py has the arithmetic
--   s:P, m:P          slots and money that the process P holds
--   day, month        spent by the store's sums, in nano-units; day_at, month_at: of which day and month (ms)
--   v                 how often those were set; open: the sum of the second hash
-- KEYS: the key's hash, its open requests, the processes that live (by the time until when). ARGV: an action, and its own.

local MINUTE, KEEP = 60000000, 172800
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local key, open, alive = KEYS[1], KEYS[2], KEYS[3]

local function whole(number) return string.format('%.0f', number) end

local function field(name) return tonumber(redis.call('HGET', key, name)) or 0 end

-- what is used of a meter after this amount, and whether it fits; one that must not fail is counted anyway
local function meter(kind, per_minute, amount, must)
  local at = tonumber(redis.call('HGET', key, kind .. 'a')) or now
  local used = math.max(0, field(kind .. 'u') - math.max(0, now - at) * per_minute)
  local fits = must or used + amount * MINUTE <= per_minute * MINUTE
  if fits then used = math.max(0, used + amount * MINUTE) end
  redis.call('HSET', key, kind .. 'u', whole(used), kind .. 'a', whole(now))
  return used, fits
end

-- the slots and the money that living processes hold
local function held()
  local slots, money = 0, 0
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local kind, process = string.match(all[i], '^([sm]):(.+)$')
    if kind then
      if (tonumber(redis.call('ZSCORE', alive, process)) or 0) < now then
        redis.call('HDEL', key, all[i])
      elseif kind == 's' then
        slots = slots + all[i + 1]
      else
        money = money + all[i + 1]
      end
    end
  end
  return slots, money
end

local function spent(period, at, so_far)
  if redis.call('HEXISTS', key, period .. '_at') == 0 then
    redis.call('HSET', key, period .. '_at', at, period, so_far, 'v', 1)
  end
  return field(period .. '_at') >= tonumber(at) and field(period) or 0
end

local actions = {}

-- process, most slots (-1: any), requests and tokens per minute (0: any), tokens, money, budget of the day and of the
-- month (-1: none), then of each where it began and what this process knows to be spent in it
function actions.take(process, most, requests, tokens, of_tokens, money, of_day, of_month, day, in_day, month, in_month)
  most, requests, tokens, of_tokens, money = tonumber(most), tonumber(requests), tonumber(tokens), tonumber(of_tokens), tonumber(money)
  of_day, of_month = tonumber(of_day), tonumber(of_month)
  local slots, reserved, used_requests, used_tokens, fits = 0, 0, 0, 0, true
  if most >= 0 or money > 0 then slots, reserved = held() end
  if most >= 0 and slots >= most then return {'slots', '0', '0'} end
  if requests > 0 then used_requests, fits = meter('r', requests, 1) end
  if not fits then return {'requests', whole(used_requests), '0'} end
  if tokens > 0 and of_tokens > 0 then used_tokens, fits = meter('t', tokens, of_tokens) end
  if not fits then return {'tokens', whole(used_requests), whole(used_tokens)} end
  if money > 0 then
    local more = field('open') + reserved
    local full_day = of_day >= 0 and spent('day', day, in_day) + more >= of_day
    local full_month = of_month >= 0 and spent('month', month, in_month) + more >= of_month
    if full_day or full_month then return {'budget', whole(used_requests), whole(used_tokens)} end
    redis.call('HINCRBY', key, 'm:' .. process, whole(money))
  end
  if most >= 0 then redis.call('HINCRBY', key, 's:' .. process, 1) end
  redis.call('EXPIRE', key, KEEP)
  return {'', whole(used_requests), whole(used_tokens)}
end

-- what a process holds of a key, whatever was thought before
function actions.hold(process, slots, money)
  redis.call('HSET', key, 's:' .. process, slots, 'm:' .. process, money)
  redis.call('EXPIRE', key, KEEP)
end

function actions.correct(tokens, amount)
  meter('t', tonumber(tokens), tonumber(amount), true)
end

-- a request was recorded; it is open until it is found in the store
function actions.settle(request, cost, created_at)
  if redis.call('HSETNX', open, request, cost .. ' ' .. created_at) == 1 then
    redis.call('HINCRBY', key, 'open', cost)
  end
  redis.call('EXPIRE', key, KEEP)
  redis.call('EXPIRE', open, KEEP)
end

function actions.version() return redis.call('HGET', key, 'v') or '0' end

function actions.opened() return redis.call('HGETALL', open) end

-- the store was read after this version: its sums, and which open requests are in them
function actions.apply(version, day, in_day, month, in_month, stored)
  if version ~= actions.version() then return 0 end
  for request in string.gmatch(stored, '%S+') do
    local cost = string.match(redis.call('HGET', open, request) or '', '^%d+')
    if cost then
      redis.call('HDEL', open, request)
      redis.call('HINCRBY', key, 'open', '-' .. cost)
    end
  end
  redis.call('HSET', key, 'day_at', day, 'day', in_day, 'month_at', month, 'month', in_month)
  redis.call('HINCRBY', key, 'v', 1)
  redis.call('EXPIRE', key, KEEP)
  return 1
end

-- the process lives; whether it was thought dead, or was not known
function actions.beat(process, milliseconds)
  local before = tonumber(redis.call('ZSCORE', alive, process)) or 0
  redis.call('ZADD', alive, whole(now + milliseconds * 1000), process)
  redis.call('ZREMRANGEBYSCORE', alive, '-inf', whole(now - 3600 * 1000000))
  return before < now and 1 or 0
end

function actions.leave(process) redis.call('ZREM', alive, process) end

return actions[table.remove(ARGV, 1)](unpack(ARGV))
