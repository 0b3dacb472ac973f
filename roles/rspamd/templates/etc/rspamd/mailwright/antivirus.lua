{% import 'header.j2' as header %}{{ header.dashes() }}
-- mail_antivirus: every message goes through ClamAV as a whole. Rspamd's own module lets a message pass where clamd answers with an error;
-- here only "OK" lets it.
local rspamd_logger = require "rspamd_logger"
local tcp = require "rspamd_tcp"
local util = require "rspamd_util"

local SOCKET = "/run/clamav/clamd.ctl"
local TIMEOUT = {{ __rspamd_antivirus_seconds }}

return function(N, common)
  local settings = common.load("policy.json").antivirus or {}
  if not settings.action or settings.action == "none" then
    return
  end

  local function unscanned(task, reason)
    rspamd_logger.errx(task, "not scanned for viruses: %s", reason)
    if settings.unscanned ~= "accept" then
      task:set_pre_result("soft reject", "Virus scanner not ready, try again later", N)
    end
  end

  local function found(task, name)
    rspamd_logger.messagex(task, "virus found: %s", name)
    if name:match("^Heuristics%.Limits%.Exceeded") and settings.unscanned == "accept" then
      return
    end
    -- Who logs in here is told.
    if not task:get_user() then
      if settings.action == "tag" then
        task:insert_result("MAILWRIGHT_VIRUS", 1.0, name)
        task:set_milter_reply({add_headers = {["X-Virus"] = name}})
        return
      elseif settings.action == "quarantine" and common.quarantine(task, "virus " .. name) then
        return
      end
    end
    task:set_pre_result("reject", "Virus found: " .. name, N)
  end

  local id = rspamd_config:register_symbol({
    name = "MAILWRIGHT_ANTIVIRUS",
    type = "prefilter",
    -- After all that refuses by policy.
    priority = 5,
    flags = "empty,nostat",
    callback = function(task)
      -- What this host makes itself has been scanned when it came in.
      if common.loopback(task) and not task:get_user() then
        return
      end
      local content = task:get_content()
      local answered = false
      local sent = tcp.request({
        task = task,
        host = SOCKET,
        port = 0,
        timeout = TIMEOUT,
        data = {util.pack("c9 c1 >I4", "zINSTREAM", "\0", #content), content, util.pack(">I4", 0)},
        stop_pattern = "\0",
        callback = function(err, data)
          answered = true
          local answer = err and "" or tostring(data):gsub("[^ -~]", "?")
          local name = answer:match("^stream: ([^ ]+) FOUND$")
          if name then
            found(task, name:sub(1, 100))
          elseif answer ~= "stream: OK" then
            unscanned(task, err or answer)
          end
        end,
      })
      if not sent and not answered then
        unscanned(task, "no connection")
      end
    end,
  })
  rspamd_config:register_symbol({name = "MAILWRIGHT_VIRUS", type = "virtual", parent = id, score = 0.0, group = N})
end
