{% import 'header.j2' as header %}{{ header.dashes() }}
-- What Rspamd's own settings cannot express: thresholds of several recipients, Redis as a condition, and which domain signs.
local lua_redis = require "lua_redis"
local rspamd_logger = require "rspamd_logger"
local ucl = require "ucl"

local N = "mailwright"
local NEVER = {{ __rspamd_never }}
local REDIS_REQUIRED = {{ rspamd_redis_required | to_json }}
local HOSTNAME = {{ mail.settings.hostname | to_json }}
local DELIMITER = {{ mail.settings.recipient_delimiter | to_json }}

local function load(name)
  local parser = ucl.parser()
  local ok, err = parser:parse_file(rspamd_paths["LOCAL_CONFDIR"] .. "/mailwright/" .. name)
  if not ok then
    rspamd_logger.errx(rspamd_config, "%s: %s", name, err)
    return {}
  end
  return parser:get_object()
end

local function loopback(task)
  local ip = task:get_from_ip()
  local text = ip and ip:is_valid() and ip:to_string() or ""
  return text:match("^127%.") ~= nil or text == "::1"
end

local function own(task)
  local ip = task:get_from_ip()
  return task:get_user() ~= nil or (ip and ip:is_valid() and ip:is_local())
end

-- Thresholds --------------------------------------------------------------------------------------------------------------

local limits = {}
for _, row in ipairs(load("spam_settings.json")) do
  limits[row.recipient] = row
end
local default = {
  greylist = {{ mail.settings.spam.greylist }}, junk = {{ mail.settings.spam.junk }}, reject = {{ mail.settings.spam.reject }},
}

local function limits_of(recipient)
  local user = (recipient.user or ""):lower()
  local domain = (recipient.domain or ""):lower()
  local at = #DELIMITER > 0 and user:find("[" .. DELIMITER:gsub("%W", "%%%0") .. "]", 2)
  return limits[user .. "@" .. domain] or (at and limits[user:sub(1, at - 1) .. "@" .. domain]) or limits["@" .. domain] or default
end

rspamd_config:register_symbol({
  name = "MAILWRIGHT_THRESHOLDS",
  type = "prefilter",
  priority = 9,
  flags = "empty,nostat",
  callback = function(task)
    if task:cache_get("settings") then
      return -- a rule of the settings module has decided
    end
    if own(task) then
      -- Own mail is neither marked nor delayed, and what this host makes itself (bounces, replies) is not refused either.
      task:set_settings({actions = {
        greylist = NEVER, ["add header"] = NEVER, ["rewrite subject"] = NEVER,
        reject = loopback(task) and not task:get_user() and NEVER or default.reject,
      }})
      return
    end
    -- SMTP has one answer for all recipients: the most patient of them decides.
    local most
    for _, recipient in ipairs(task:get_recipients("smtp") or {}) do
      local row = limits_of(recipient)
      most = most or {greylist = row.greylist, junk = row.junk, reject = row.reject}
      for key, value in pairs(most) do
        most[key] = math.max(value, row[key])
      end
    end
    if most then
      task:set_settings({actions = {greylist = most.greylist, ["add header"] = most.junk, reject = most.reject}})
    end
  end,
})

-- Redis -------------------------------------------------------------------------------------------------------------------

local redis = lua_redis.parse_redis_server(N)

rspamd_config:register_symbol({
  name = "MAILWRIGHT_REDIS",
  type = "prefilter",
  priority = 8,
  flags = "empty,nostat",
  callback = function(task)
    if not REDIS_REQUIRED or (loopback(task) and not task:get_user()) then
      return
    end
    local function defer(reason)
      rspamd_logger.errx(task, "Redis does not answer (%s): message deferred", reason)
      task:set_pre_result("soft reject", "Filter not ready, try again later", N)
    end
    local sent = redis and lua_redis.redis_make_request(task, redis, nil, false, function(err)
      if err then
        defer(err)
      end
    end, "PING", {})
    if not sent then
      defer("no connection")
    end
  end,
})

-- Signing -----------------------------------------------------------------------------------------------------------------

local keys

local function signing_domain(task)
  local header = ((task:get_from("mime") or {})[1] or {}).domain
  if not header then
    return nil
  end
  header = header:lower()
  local envelope = ((task:get_from("smtp") or {})[1] or {}).domain or ""
  local user = task:get_user()
  if user then
    -- With a sender Postfix has checked that it belongs to the login, and dkim_signing that From agrees with it.
    if envelope == "" and user:lower():match("@(.*)$") ~= header then
      return nil
    end
  elseif loopback(task) and task:get_header_full("Received") then
    -- Has been elsewhere before (a Sieve redirect): not our own, whatever From says.
    return nil
  end
  -- Bounces come from MAILER-DAEMON@hostname; the domain above it signs for it.
  keys = keys or (rspamd_config:get_all_opt("dkim_signing") or {}).domain or {}
  local domain = header
  while domain and not keys[domain] do
    domain = header == HOSTNAME and domain:match("^[^.]+%.(.+%..+)$") or nil
  end
  return domain
end

rspamd_plugins[N] = {signing_domain = signing_domain}
