{% import 'header.j2' as header %}{{ header.dashes() }}
-- What Rspamd's own settings cannot express: thresholds of several recipients, Redis as a condition, whose ARC seals are trusted,
-- which domain signs, how junk is marked, and scores whatever their group.
local lua_redis = require "lua_redis"
local rspamd_logger = require "rspamd_logger"
local rspamd_util = require "rspamd_util"
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

-- By a user of ours or this host itself; what has a Received has been elsewhere before (a Sieve redirect), whatever From says.
local function written_here(task)
  return task:get_user() ~= nil or (own(task) and not (loopback(task) and task:get_header_full("Received")))
end

-- Thresholds --------------------------------------------------------------------------------------------------------------

local limits = {}
for _, row in ipairs(load("spam_settings.json")) do
  limits[row.recipient] = row
end
local default = {
  greylist = {{ mail.settings.spam.greylist }}, junk = {{ mail.settings.spam.junk }}, reject = {{ mail.settings.spam.reject }},
}

local function without_tag(user)
  local at = #DELIMITER > 0 and user:find("[" .. DELIMITER:gsub("%W", "%%%0") .. "]", 2)
  return at and user:sub(1, at - 1) or user
end

local function limits_of(recipient)
  local user = (recipient.user or ""):lower()
  local domain = (recipient.domain or ""):lower()
  return limits[user .. "@" .. domain] or limits[without_tag(user) .. "@" .. domain] or limits["@" .. domain] or default
end

local function is_allowed(task)
  return task:cache_get("mailwright_allowed")
end

dofile(rspamd_paths["LOCAL_CONFDIR"] .. "/mailwright/handover.lua")
local policy = dofile(rspamd_paths["LOCAL_CONFDIR"] .. "/mailwright/policy.lua")(N, {
  load = load, own = own, untagged = without_tag, is_allowed = is_allowed,
})
dofile(rspamd_paths["LOCAL_CONFDIR"] .. "/mailwright/attachments.lua")(N, {load = load, loopback = loopback, is_allowed = is_allowed})
local quarantine = dofile(rspamd_paths["LOCAL_CONFDIR"] .. "/mailwright/quarantine.lua")(N, {load = load})
dofile(rspamd_paths["LOCAL_CONFDIR"] .. "/mailwright/antivirus.lua")(N, {load = load, loopback = loopback, quarantine = quarantine.quarantine})
{% if __rspamd_origins %}
dofile(rspamd_paths["LOCAL_CONFDIR"] .. "/mailwright/origins.lua")(N, {load = load, own = own})
{% endif %}

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
    if policy.allowed(task) then
      task:cache_set("mailwright_allowed", true)
      task:set_settings({actions = {greylist = NEVER, ["add header"] = NEVER, ["rewrite subject"] = NEVER, reject = NEVER}})
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
    if most and quarantine.spam then
      task:cache_set("mailwright_reject", most.reject)
      most.reject = NEVER
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

-- Forwarded mail ----------------------------------------------------------------------------------------------------------

-- Rspamd's own list of trusted signers is content with one of them anywhere in the chain, so that whoever comes later may have changed
-- the message. Here every seal must be of a domain that is trusted, and one of them must have seen DMARC pass for the domain in From.
local sealers = {}
for _, domain in ipairs({ {%- for domain in mail.settings.authentication.arc.trusted_sealers %}{{ domain | to_json }}, {% endfor -%} }) do
  sealers[domain] = true
end

-- A header without comments and quoted strings: what a sender has written may stand in them.
local function bare(text)
  local kept, depth, quoted, escaped = {}, 0, false, false
  for character in text:gmatch(".") do
    if escaped then
      escaped = false
    elseif character == "\\" then
      escaped = true
    elseif quoted then
      quoted = character ~= '"'
    elseif character == '"' and depth == 0 then
      quoted = true
    elseif character == "(" then
      depth = depth + 1
    elseif character == ")" then
      depth = math.max(depth - 1, 0)
    elseif depth == 0 then
      kept[#kept + 1] = character
    end
  end
  return table.concat(kept):lower()
end

rspamd_config:register_symbol({
  name = "MAILWRIGHT_ARC_TRUSTED",
  type = "normal",
  score = -3.0,
  description = "DMARC passed at a trusted server that forwarded the message",
  callback = function(task)
    local from = ((task:get_from("mime") or {})[1] or {}).domain
    local seals = task:cache_get("arc-seals")
    local results = task:get_header_full("ARC-Authentication-Results") or {}
    if not from or not task:has_symbol("ARC_ALLOW") or not seals or #results ~= #seals then
      return
    end
    for _, seal in ipairs(seals) do
      if not sealers[(seal.d or ""):lower()] then
        return
      end
    end
    for _, header in ipairs(results) do
      for part in bare(header.value):gmatch("[^;]+") do
        if part:match("^%s*dmarc%s*=%s*pass%f[%s%z]") and part:match("%sheader%.from%s*=%s*(%S+)") == from:lower() then
          return true, 1.0, seals[#seals].d
        end
      end
    end
  end,
})
rspamd_config:register_dependency("MAILWRIGHT_ARC_TRUSTED", "ARC_CHECK")

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
  elseif own(task) and not written_here(task) then
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

-- Sealing (ARC) -----------------------------------------------------------------------------------------------------------

local forwarders = {}
for _, address in ipairs(load("forwarders.json")) do
  forwarders[address] = true
end

local function is_forwarder(recipient)
  local user = (recipient.user or ""):lower()
  local domain = (recipient.domain or ""):lower()
  return forwarders[user .. "@" .. domain] or forwarders[without_tag(user) .. "@" .. domain] or forwarders["@" .. domain]
end

local function sealing_domain(task)
  if own(task) then
    return nil
  end
  for _, recipient in ipairs(task:get_recipients("smtp") or {}) do
    if is_forwarder(recipient) then
      return recipient.domain:lower()
    end
  end
  return nil
end

-- Headers -----------------------------------------------------------------------------------------------------------------

local marks = load("marks.json")
local JUNK = {["add header"] = true, ["rewrite subject"] = true}

-- What milter_headers adds and removes. A removal of number 0 is of all headers of that name.
local function headers(task)
  if task:get_user() then
    return nil, {}, {["Authentication-Results"] = 0}, {}
  elseif own(task) then
    return nil, {}, {}, {}
  end
  local junk = JUNK[task:get_metric_action()] ~= nil
  local score = task:get_metric_score()[1]
  local add, remove = {}, {}
  local function set(name, value)
    remove[name] = 0
    add[name] = value
  end
  if marks.status then
    set("X-Spam-Status", string.format("%s, score=%.2f", junk and "Yes" or "No", score))
  end
  if marks.score then
    set("X-Spam-Score", string.format("%.2f", score))
  end
  if marks.level then
    -- Where there is less than a point, none; more than 50 say nothing new.
    remove["X-Spam-Level"] = 0
    if score >= 1 then
      add["X-Spam-Level"] = string.rep("*", math.min(math.floor(score), 50))
    end
  end
  if marks.subject and junk and (task:get_header("Subject") or ""):sub(1, #marks.subject) ~= marks.subject then
    local given = (((task:get_header_full("Subject") or {})[1] or {}).value or ""):gsub("%s*[\r\n]+%s*", " ")
    given = given:gsub("^%s+", "")
    local mark = marks.subject
    if mark:find("[^ -~]") then
      -- RFC 2047: one word; the space between two encoded words is none.
      mark = "=?UTF-8?B?" .. tostring(rspamd_util.encode_base64(mark .. (given:find("^=%?") and " " or ""))) .. "?="
    end
    local subject = mark .. " " .. given
    -- Folded only where it would be too long for a line (RFC 5322): Rspamd makes tabs of its spaces.
    set("Subject", #subject < 900 and subject or rspamd_util.fold_header("Subject", subject))
  end
  return nil, add, remove, {}
end

-- mail_spam_scores: above what modules and files say.
for name, score in pairs(load("scores.json")) do
  rspamd_config:set_metric_symbol({name = name, score = score, priority = 10})
end

rspamd_plugins[N] = {headers = headers, signing_domain = signing_domain, sealing_domain = sealing_domain}
{% if mail.legal_notes %}

dofile(rspamd_paths["LOCAL_CONFDIR"] .. "/mailwright/legal_note.lua")({load = load, written_here = written_here, is_forwarder = is_forwarder})
{% endif %}
