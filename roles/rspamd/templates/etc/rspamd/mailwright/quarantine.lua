{% import 'header.j2' as header %}{{ header.dashes() }}
-- mail_quarantine: a message that Postfix redirects to the quarantine's mailbox, because of a header that is added here, and what has to be
-- known to release it. Headers of that kind which a message brings are taken off.
local lua_util = require "lua_util"
local rspamd_logger = require "rspamd_logger"
local util = require "rspamd_util"

local HEADERS = {"X-Quarantine-Id", "X-Quarantine-Reason", "X-Quarantine-Sender", "X-Quarantine-Recipients", "X-Quarantine-Notify"}
-- What can stand in a header, and be given to a program, as it is.
local ADDRESS = "^[%w!#$&'*+/=?^_`{|}~.-]+@[%w.-]+$"
-- What can also stand in a mailto: URI. Sieve notifies no more than these.
local PLAIN, NOTIFIED = "^[%w._+=-]+@[%w.-]+$", 8

return function(N, common)
  local settings = common.load("policy.json").quarantine or {}
  if not settings.mailbox then
    return {quarantine = function() return false end}
  end

  -- Whether the message goes there; false where its addresses are too odd to be kept.
  local function quarantine(task, reason)
    local sender = ((task:get_from("smtp") or {})[1] or {}).addr or ""
    local recipients, notified = {}, {}
    for _, recipient in ipairs(task:cache_get("mailwright_recipients") or {}) do
      if not recipient:match(ADDRESS) then
        return false
      end
      table.insert(recipients, recipient)
      if recipient:match(PLAIN) and #notified < NOTIFIED then
        table.insert(notified, (recipient:gsub("[+=]", {["+"] = "%2B", ["="] = "%3D"})))
      end
    end
    if #recipients == 0 or (sender ~= "" and not sender:match(ADDRESS)) then
      return false
    end
    local id = util.random_hex(32)
    local add = {
      ["X-Quarantine-Reason"] = reason:gsub("[^ -~]", "?"):sub(1, 200),
      ["X-Quarantine-Sender"] = "<" .. sender .. ">",
      ["X-Quarantine-Recipients"] = table.concat(recipients, ",\n "),
      -- The last: Postfix acts on it.
      ["X-Quarantine-Id"] = id,
    }
    if settings.notify_recipients and #notified > 0 then
      add["X-Quarantine-Notify"] = table.concat(notified, "%2C")
    end
    task:set_milter_reply({add_headers = add})
    task:insert_result("MAILWRIGHT_QUARANTINED", 0.0, id)
    rspamd_logger.messagex(task, "quarantined as %s: %s", id, add["X-Quarantine-Reason"])
    return true
  end

  rspamd_config:register_symbol({
    name = "MAILWRIGHT_QUARANTINE_BEGIN",
    type = "prefilter",
    -- Before Rspamd takes tags off the recipients (its rule TAGGED_RCPT).
    priority = lua_util.symbols_priorities.top + 2,
    flags = "empty,nostat",
    callback = function(task)
      local recipients = {}
      for _, recipient in ipairs(task:get_recipients("smtp") or {}) do
        table.insert(recipients, recipient.addr)
      end
      task:cache_set("mailwright_recipients", recipients)
      local remove = {}
      for _, name in ipairs(HEADERS) do
        if task:has_header(name) then
          remove[name] = 0
        end
      end
      if next(remove) then
        task:set_milter_reply({remove_headers = remove})
      end
    end,
  })

  -- Spam that would be refused for its score. The score of refusal is where rspamd.local.lua left it.
  rspamd_config:register_symbol({
    name = "MAILWRIGHT_QUARANTINE",
    type = "postfilter",
    priority = 9,
    flags = "empty,nostat",
    callback = function(task)
      local limit = task:cache_get("mailwright_reject")
      local score = (task:get_metric_score("default") or {})[1]
      if limit and score and score >= limit and not quarantine(task, string.format("spam, %.1f points", score)) then
        task:set_pre_result("reject", "Message refused as spam", N)
      end
    end,
  })
  rspamd_config:set_metric_symbol({name = "MAILWRIGHT_QUARANTINED", score = 0.0, group = N, description = "mail_quarantine"})

  return {quarantine = quarantine, spam = settings.spam}
end
