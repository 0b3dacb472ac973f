{% import 'header.j2' as header %}{{ header.dashes() }}
-- The inventory's policy on mail that no setting of Rspamd's expresses: mail_filter, mail_missing_headers, mail_sending_limit.
-- rspamd.local.lua calls this with what both need, and asks `allowed`.
local lua_maps = require "lua_maps"
local lua_redis = require "lua_redis"
local rspamd_logger = require "rspamd_logger"

return function(N, common)
  local policy = common.load("policy.json")
  local filter = policy.filter or {}

  local function refuse(task, action, message, reason)
    rspamd_logger.messagex(task, "%s", reason)
    task:set_pre_result(action, message, N)
  end

  -- mail_filter -----------------------------------------------------------------------------------------------------------

  local rules = {}
  for action, lists in pairs(filter) do
    local rule = {any = false, senders = {}, recipients = {}}
    for _, kind in ipairs({"senders", "recipients"}) do
      for _, key in ipairs(lists[kind] or {}) do
        rule[kind][key] = true
        rule.any = true
      end
    end
    if lists.clients and #lists.clients > 0 then
      rule.clients = lua_maps.rspamd_map_add_from_ucl(lists.clients, "radix", "mail_filter: " .. action)
      rule.any = true
    end
    rules[action] = rule
  end

  -- An address by itself, without its tag, by its domain and by each domain above it, as access(5) does.
  local function listed(keys, address)
    local user, domain = (address.user or ""):lower(), (address.domain or ""):lower()
    if keys[user .. "@" .. domain] or keys[common.untagged(user) .. "@" .. domain] or keys[domain] then
      return user .. "@" .. domain
    end
    local above = domain:match("%..+$")
    while above do
      if keys[above] then
        return above
      end
      above = above:sub(2):match("%..+$")
    end
  end

  local function any_listed(keys, addresses)
    if next(keys) then
      for _, address in ipairs(addresses or {}) do
        local found = listed(keys, address)
        if found then
          return found
        end
      end
    end
  end

  -- Which entry of mail_filter for this action is about the message.
  local function match(task, action)
    local rule = rules[action]
    if not rule or not rule.any then
      return nil
    end
    local ip = task:get_from_ip()
    if rule.clients and ip and ip:is_valid() and rule.clients:get_key(ip) then
      return ip:to_string()
    end
    return any_listed(rule.senders, task:get_from("smtp")) or any_listed(rule.senders, task:get_from("mime"))
      or any_listed(rule.recipients, task:get_recipients("smtp"))
  end

  local function allowed(task)
    local what = match(task, "allow")
    if what then
      task:insert_result("MAILWRIGHT_ALLOWED", 1.0, what)
    end
    return what
  end

  -- Headers that must be there --------------------------------------------------------------------------------------------

  local required = {}
  for _, name in ipairs({"From", "Date"}) do
    if (policy.missing_headers or {})[name:lower()] == "reject" then
      table.insert(required, name)
    end
  end

  -- Recipients per hour and login -----------------------------------------------------------------------------------------

  -- A bucket that leaks: what it holds, and when that was so. Takes all recipients of a message or none.
  local TAKE = [[
    local level, at = unpack(redis.call('HMGET', KEYS[1], 'level', 'at'))
    local limit, wanted, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
    level = math.max(0, (tonumber(level) or 0) - math.max(0, now - (tonumber(at) or now)) * limit / 3600)
    if level + wanted > limit then return 0 end
    redis.call('HSET', KEYS[1], 'level', tostring(level + wanted), 'at', tostring(now))
    redis.call('EXPIRE', KEYS[1], 3600)
    return 1
  ]]
  local redis = lua_redis.parse_redis_server(N)

  local function take(task, login)
    local limit = (policy.sending_limits or {})[login] or policy.sending_limit
    local wanted = #(task:get_recipients("smtp") or {})
    if not limit or limit == 0 or wanted == 0 then
      return
    end
    lua_redis.redis_make_request(task, redis, "mailwright:sending:" .. login, true, function(err, answer)
      if err then
        -- Whether Redis is a condition is decided elsewhere (MAILWRIGHT_REDIS).
        rspamd_logger.errx(task, "sending limit not checked: %s", err)
      elseif tonumber(answer) == 0 then
        refuse(task, "soft reject", "Sending limit reached, try again later",
          string.format("%s has reached its limit of %d recipients per hour", login, limit))
      end
    end, "EVAL", {TAKE, "1", "mailwright:sending:" .. login, tostring(limit), tostring(wanted), tostring(os.time())})
  end

  rspamd_config:register_symbol({
    name = "MAILWRIGHT_POLICY",
    type = "prefilter",
    priority = 7,
    flags = "empty,nostat",
    callback = function(task)
      local user = task:get_user()
      if user then
        take(task, user:lower())
        return
      elseif common.own(task) then
        return
      end
      for _, name in ipairs(required) do
        if (task:get_header(name) or "") == "" then
          refuse(task, "reject", "Header " .. name .. " is missing (RFC 5322)", "no header " .. name)
          return
        end
      end
      if common.is_allowed(task) then
        return
      end
      local what = match(task, "block")
      if what then
        refuse(task, "reject", "Refused by local policy", what .. " is blocked by mail_filter")
      elseif match(task, "no_greylisting") then
        task:insert_result("MAILWRIGHT_NO_GREYLISTING", 1.0)
      end
    end,
  })
  for _, name in ipairs({"MAILWRIGHT_ALLOWED", "MAILWRIGHT_NO_GREYLISTING"}) do
    rspamd_config:set_metric_symbol({name = name, score = 0.0, group = N, description = "mail_filter"})
  end

  return {allowed = allowed}
end
